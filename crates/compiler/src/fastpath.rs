//! The fast path: the part of a table by which established connections leave it.
//!
//! It is a part of its own, written by transactions of its own, so that a kernel or a device that it cannot get along with is never
//! in the way of a Service. All that it shares with the rest of the table is what it reads there: sets of frontends.

use std::collections::BTreeMap;
use std::iter;
use std::num::NonZeroU32;
use std::sync::Arc;

use model::{Family, Protocol};
use ruleset::{
    Chain, ChainKind, Comment, Data, DeviceChanges, Element, Field, Flowtable, Found, Hook, HookPoint, Interface, Name,
    Op, Rule, Selector, Set, SetKind, Statement, Transaction, Verdict, Words,
};

use crate::compiler::{table_family, table_name};
use crate::frontend::Scope;
use crate::name;
use crate::sets::SetId;

/// The flowtable, and the chain that is the last of all in `forward`. What the fast path owns has names that start like this.
const FASTPATH: &str = "fastpath";
/// Where established connections that were translated are looked at.
const OFFLOAD: &str = "fastpath-offload";
/// The devices of the flowtable, by their numbers.
const DEVICES: &str = "fastpath-devices";
/// Protocols and ports that are never offloaded.
const NEVER: &str = "fastpath-never";
/// Counts connections that were put into the flowtable; as often as they were.
const OFFLOADS: &str = "fastpath-offloads";
/// Counts packets of connections in the flowtable that came this way all the same.
const MISSES: &str = "fastpath-misses";
/// Counts packets that would not have come this way if it were not for the dry run.
const DRY_RUN: &str = "fastpath-dry-run";

/// The priority of the hook where devices receive: after the chains of others there, which mostly have 0 (`filter`), so that what
/// these drop stays dropped. A packet in the flowtable of its family gets no further, so that IPv4, of which there is more, does not
/// pay for looking into that of IPv6.
const fn ingress_priority(family: Family) -> i32 {
    match family {
        Family::V4 => 300,
        Family::V6 => 301,
    }
}

/// DNS: a question, an answer, and a port that is not used again.
const DNS: (Protocol, u16) = (Protocol::Udp, 53);

/// The fast path of one family.
///
/// A connection is offloaded when more than so many packets of it have been seen, both directions together, if its client used a
/// ClusterIP, or another frontend where that is wanted, and if both devices that it passes are among those of the flowtable. From then
/// on its packets go from the one device to the other, translated, and see none of the hooks in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPath {
    /// The family of the table.
    pub family: Family,
    /// After how many packets.
    pub threshold: NonZeroU32,
    /// Whether connections to NodePorts, external IPs and load balancer addresses take it, too.
    pub all_frontends: bool,
    /// Whether it only counts the packets that it would have offloaded.
    pub dry_run: bool,
}

/// What it has counted since it was declared the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastPathCounts {
    /// How often connections were put into the flowtable. One that was idle for 30 s leaves it, and is put there again.
    pub offloads: u64,
    /// Packets of connections in the flowtable that took the slow path.
    pub misses: u64,
    /// Packets that would have taken the fast path if this were no dry run.
    pub dry_run: u64,
}

impl FastPath {
    /// The priority of its chain in `forward`: after everyone else's. A packet that a later chain drops would be in the flowtable by
    /// then, and the connection's next packets would not be dropped any more.
    pub const PRIORITY: i32 = i32::MAX;

    /// The flowtable's name.
    pub fn flowtable() -> Name {
        name(FASTPATH)
    }

    /// The name of the chain in `forward` that offloads, and that has to be the last there.
    pub fn chain() -> Name {
        name(FASTPATH)
    }

    /// The transaction that makes the fast path with these devices, whatever there is of it, `replaces` saying whether there is a
    /// flowtable. Its connections take the slow path for one packet each, and are judged anew by all rules then. The table must exist.
    ///
    /// The one that is there is deleted first, as it may be that of another version of this program: the kernel does not change the
    /// priority of a flowtable (`nft_flowtable_parse_hook` in net/netfilter/nf_tables_api.c).
    pub fn declare(&self, devices: &BTreeMap<NonZeroU32, Interface>, replaces: bool) -> Transaction {
        let mut ops: Vec<_> = self.objects().collect();
        ops.extend([OFFLOAD, FASTPATH].map(|chain| Op::FlushChain(name(chain))));
        ops.extend(replaces.then(|| Op::DeleteFlowtable(Self::flowtable())));
        ops.push(Op::FlushSet(device_set()));
        ops.push(Op::AddFlowtable { flowtable: self.definition(), devices: Vec::new() });
        ops.extend(self.add_devices(devices.values(), devices.keys()));
        ops.extend(self.rules().into_iter().map(Op::AddRule));
        self.transaction(ops)
    }

    /// The transaction that makes these changes.
    pub fn change_devices(&self, changes: &DeviceChanges) -> Transaction {
        let mut ops = vec![Op::DeleteElements { set: device_set(), elements: elements(&changes.dismiss) }];
        let detached = chunks(&changes.detach);
        ops.extend(detached.map(|devices| Op::DeleteDevices { flowtable: self.definition(), devices }));
        ops.extend(self.add_devices(&changes.attach, &changes.admit));
        self.transaction(ops)
    }

    /// The transaction that takes the fast path away, if all of it is there. Its connections go on in the slow path.
    pub fn remove(family: Family) -> Transaction {
        let chains = [FASTPATH, OFFLOAD].map(name);
        let flushes = chains.iter().cloned().map(Op::FlushChain);
        let mut ops: Vec<_> = flushes.chain(chains.iter().cloned().map(Op::DeleteChain)).collect();
        ops.extend([DEVICES, NEVER].map(|set| Op::DeleteSet(name(set))));
        ops.push(Op::DeleteFlowtable(Self::flowtable()));
        ops.extend([OFFLOADS, MISSES, DRY_RUN].map(|counter| Op::DeleteCounter(name(counter))));
        Transaction { ops, ..Transaction::new(table_family(family), table_name()) }
    }

    /// Takes what belongs to the fast path out of what was read of a table, to be compared with what the Services need.
    pub fn leave_out(found: &mut Found) {
        found.chains.retain(|name, _| !is_part(name));
        found.sets.retain(|name, _| !is_part(name));
    }

    /// What its counters say.
    pub fn counts(packets: impl Fn(&str) -> Option<u64>) -> FastPathCounts {
        let count = |counter| packets(counter).unwrap_or_default();
        FastPathCounts { offloads: count(OFFLOADS), misses: count(MISSES), dry_run: count(DRY_RUN) }
    }

    /// What it consists of, but for rules and devices.
    fn objects(&self) -> impl Iterator<Item = Op> {
        let counters = [OFFLOADS, MISSES, DRY_RUN].map(|counter| Op::AddCounter(name(counter)));
        let never = never_set();
        let key = Words::build().protocol(DNS.0.number()).port(DNS.1).finish();
        let dns = Element { key, data: Data::None, comment: Some(Comment::new("DNS")) };
        let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: Self::PRIORITY };
        counters.into_iter().chain([
            Op::AddSet(device_set()),
            Op::AddSet(Arc::clone(&never)),
            Op::AddElements { set: never, elements: vec![dns] },
            Op::AddChain(Chain { name: name(OFFLOAD), hook: None, comment: None }),
            Op::AddChain(Chain { name: name(FASTPATH), hook: Some(hook), comment: None }),
        ])
    }

    /// In order of what they cost the packets that do not get to their ends: most are of short connections, or of none to Services.
    fn rules(&self) -> Vec<Rule> {
        let rule = |chain, statements, comment: &str| Rule {
            chain: name(chain),
            statements,
            comment: Some(Comment::new(comment)),
        };
        let is_long = vec![
            Statement::MorePackets(self.threshold.get().into()),
            Statement::Translated,
            Statement::Established,
            Statement::Verdict(Verdict::Goto(name(OFFLOAD))),
        ];
        let is_missed = vec![Statement::Offloaded, Statement::Count(name(MISSES)), Statement::Verdict(Verdict::Accept)];
        let never = vec![
            Statement::InSet { key: vec![Selector::Protocol, Selector::OriginalDestinationPort], set: never_set() },
            Statement::Verdict(Verdict::Accept),
        ];
        let slow = vec![
            Statement::InSet { key: Scope::Address.original_selectors(), set: shared(SetId::SlowPath) },
            Statement::Verdict(Verdict::Accept),
        ];
        let mut rules = vec![
            rule(FASTPATH, is_long, "long connections that were translated"),
            rule(OFFLOAD, is_missed, "in the flowtable, and here all the same"),
            rule(OFFLOAD, never, "never offloaded"),
            rule(OFFLOAD, slow, "services that opted out"),
        ];
        let cluster_ips = (vec![Selector::OriginalDestinationAddress], SetId::ClusterIps);
        let others = [
            (Scope::Address.original_selectors(), SetId::External),
            (Scope::NodePort.original_selectors(), SetId::FastNodePorts),
        ];
        let others = others.into_iter().filter(|_| self.all_frontends);
        for (key, set) in iter::once(cluster_ips).chain(others) {
            rules.push(rule(OFFLOAD, self.offload(key, set), "leave the slow path"));
        }
        rules
    }

    /// The rule for connections whose frontends are in this set.
    fn offload(&self, key: Vec<Selector>, set: SetId) -> Vec<Statement> {
        let mut statements = vec![
            Statement::InSet { key: vec![Selector::InputDevice], set: device_set() },
            Statement::InSet { key: vec![Selector::OutputDevice], set: device_set() },
            Statement::InSet { key, set: shared(set) },
        ];
        statements.extend(if self.dry_run {
            vec![Statement::Count(name(DRY_RUN))]
        } else {
            vec![Statement::Offload(Self::flowtable()), Statement::Count(name(OFFLOADS))]
        });
        statements
    }

    /// Adds devices to the flowtable, and to the set by which rules tell them.
    fn add_devices<'a>(
        &self,
        names: impl IntoIterator<Item = &'a Interface>,
        numbers: impl IntoIterator<Item = &'a NonZeroU32>,
    ) -> Vec<Op> {
        let attached = chunks(names).map(|devices| Op::AddFlowtable { flowtable: self.definition(), devices });
        attached.chain([Op::AddElements { set: device_set(), elements: elements(numbers) }]).collect()
    }

    fn definition(&self) -> Flowtable {
        Flowtable { name: Self::flowtable(), priority: ingress_priority(self.family) }
    }

    fn transaction(&self, ops: Vec<Op>) -> Transaction {
        Transaction { ops, ..Transaction::new(table_family(self.family), table_name()) }
    }
}

/// A set of the Services' part of the table, which is always there.
fn shared(set: SetId) -> Arc<Set> {
    Arc::new(set.define())
}

fn is_part(name: &Name) -> bool {
    name.as_str().starts_with(FASTPATH)
}

fn device_set() -> Arc<Set> {
    set(DEVICES, vec![Field::Device], "devices that connections may be offloaded between")
}

fn never_set() -> Arc<Set> {
    set(NEVER, vec![Field::Protocol, Field::Port], "frontends that are never offloaded")
}

fn set(text: &str, key: Vec<Field>, comment: &str) -> Arc<Set> {
    Arc::new(Set { name: name(text), key, data: None, kind: SetKind::Static, comment: Some(Comment::new(comment)) })
}

fn elements<'a>(numbers: impl IntoIterator<Item = &'a NonZeroU32>) -> Vec<Element> {
    let key = |number: &NonZeroU32| Words::build().native(number.get()).finish();
    numbers.into_iter().map(|number| Element { key: key(number), data: Data::None, comment: None }).collect()
}

/// As many as fit into an operation each.
fn chunks<'a>(names: impl IntoIterator<Item = &'a Interface>) -> impl Iterator<Item = Vec<Interface>> {
    let names: Vec<_> = names.into_iter().cloned().collect();
    let chunks: Vec<_> = names.chunks(Flowtable::MOST_DEVICES).map(<[_]>::to_vec).collect();
    chunks.into_iter()
}
