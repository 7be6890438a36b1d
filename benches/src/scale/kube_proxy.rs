//! The other side: the same Services as kube-proxy 1.36 lays them out (contract appendix A), through `nft -f`.
//!
//! Only what `nft` and the kernel do is counted, not kube-proxy's own work nor its listing of the table before each sync.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::{EndpointSlice, Service};
use testing::scale::Scale;

use crate::figures::{Figures, Took};

/// How many changes of each kind are timed.
const CHANGES: u32 = 10;

pub(crate) fn measure(services: u32, endpoints: u32) -> Result<Figures> {
    let scale = Scale::new(services + CHANGES, endpoints);
    let mut text = BASE.to_owned();
    for i in 0..services {
        add_service(&mut text, &scale.service(i), &scale.slice(i));
    }
    let cold = nft(&text)?;

    let (mut changes, mut peak) = (Vec::new(), cold.peak_rss_mib);
    for n in 0..CHANGES {
        let i = n * (services / CHANGES);
        let (service, mut slice) = (scale.service(i), scale.slice(i));
        let replaced = slice.endpoints[0].address;
        slice.endpoints[0].address = format!("10.200.0.{}", n + 1).parse()?;
        let mut text = String::new();
        replace_endpoints(&mut text, &service, &slice);
        if slice.endpoints[0].local {
            let new = slice.endpoints[0].address;
            writeln!(
                text,
                "delete element ip kube-proxy hairpin-connections {{ {replaced} . {replaced} . tcp . 8080 }}"
            )?;
            writeln!(text, "add element ip kube-proxy hairpin-connections {{ {new} . {new} . tcp . 8080 }}")?;
        }
        let run = nft(&text)?;
        changes.push(run.took);

        let mut text = String::new();
        add_service(&mut text, &scale.service(services + n), &scale.slice(services + n));
        let run = nft(&text)?;
        changes.push(run.took);
        peak = peak.max(run.peak_rss_mib);
    }
    Ok(Figures::new(cold.took, &changes, peak))
}

/// The rules and sets that do not depend on Services (contract §5.2–§5.4).
const BASE: &str = r#"add table ip kube-proxy { comment "rules for kube-proxy" ; }
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
add set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy masquerading
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != 10.128.0.0/9 mark set mark or 0x00004000
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy nodeport-endpoints-check ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy masquerading mark and 0x00004000 != 0 mark set mark xor 0x00004000 masquerade fully-random
add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
"#;

fn add_service(text: &mut String, service: &Service, slice: &EndpointSlice) {
    let chain = chain(service);
    let cluster_ip = service.cluster_ips.v4.map(|ip| ip.to_string()).unwrap_or_default();
    append(text, format_args!("add chain ip kube-proxy {chain}"));
    append(text, format_args!("add element ip kube-proxy cluster-ips {{ {cluster_ip} }}"));
    append(text, format_args!("add element ip kube-proxy service-ips {{ {cluster_ip} . tcp . 80 : goto {chain} }}"));
    for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.local) {
        let ip = endpoint.address;
        append(text, format_args!("add element ip kube-proxy hairpin-connections {{ {ip} . {ip} . tcp . 8080 }}"));
    }
    replace_endpoints(text, service, slice);
}

/// The chain of a Service, written anew.
fn replace_endpoints(text: &mut String, service: &Service, slice: &EndpointSlice) {
    let chain = chain(service);
    let endpoints = slice.endpoints.iter().enumerate().map(|(n, e)| format!("{n} : {} . 8080", e.address));
    let endpoints = endpoints.collect::<Vec<_>>().join(" , ");
    let count = slice.endpoints.len();
    append(text, format_args!("flush chain ip kube-proxy {chain}"));
    append(
        text,
        format_args!(
            "add rule ip kube-proxy {chain} meta l4proto tcp dnat ip addr . port to numgen random mod {count} map {{ {endpoints} }}"
        ),
    );
}

/// A name as long as kube-proxy's; eight characters stand in for its hash.
fn chain(service: &Service) -> String {
    format!("service-ABCDEFGH-{}/tcp/http", service.name)
}

fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

/// What one run of `nft` took.
struct Run {
    /// The kernel's part is to the hundredth of a second.
    took: Took,
    peak_rss_mib: f64,
}

/// Runs `nft -f` on a text, under `time`, which tells what the kernel counted.
fn nft(text: &str) -> Result<Run> {
    let directory = tempfile::tempdir()?;
    let (rules, figures) = (directory.path().join("rules.nft"), directory.path().join("figures"));
    fs::write(&rules, text)?;
    let mut command = Command::new("time");
    command.args(["-f", "%S %M", "-o"]).arg(&figures).args(["nft", "-f", "-"]).stdin(Stdio::from(File::open(&rules)?));
    let start = Instant::now();
    let output = command.output().context("cannot run nft under time: install nftables and time")?;
    let whole = start.elapsed();
    ensure!(output.status.success(), "nft failed: {}", String::from_utf8_lossy(&output.stderr));
    let figures = fs::read_to_string(&figures)?;
    let (system, peak_kib) = figures.trim().split_once(' ').context("time printed no figures")?;
    let (system, peak_kib): (f64, f64) = (system.parse()?, peak_kib.parse()?);
    let took = Took { whole, kernel: Duration::from_secs_f64(system) };
    Ok(Run { took, peak_rss_mib: peak_kib / 1024.0 })
}
