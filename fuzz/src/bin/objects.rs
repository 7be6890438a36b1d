//! An object among others, in a list and in a watch: whatever it is, the others count, and what is wrong with it is said.
#![no_main]

use fuzz::done;
use informer::fuzz::{Kind, Read};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// The first byte is the kind of the object; the rest, its JSON.
fuzz_target!(|input: &[u8]| {
    let Some((first, json)) = input.split_first() else { return };
    let (kind, before, after) = match first % 4 {
        0 => (Kind::Service, SERVICE, SERVICE),
        1 => (Kind::EndpointSlice, SLICE, SLICE),
        2 => (Kind::ServiceCidr, SERVICE_CIDR, SERVICE_CIDR),
        _ => (Kind::Node, NODE, NODE),
    };
    let list = [br#"{"metadata":{"resourceVersion":"1"},"items":["#, before, b",", json, b",", after, b"]}"].concat();
    let event = [br#"{"type":"MODIFIED","object":"#, json, b"}"].concat();
    // A server whose answers are no JSON has a problem that is not one of objects.
    let is_json = |text: &[u8]| serde_json::from_slice::<Value>(text).is_ok();
    if !is_json(json) || !is_json(&list) {
        drop((kind.list(&list), kind.event(&event)));
        return;
    }
    let read = done(kind.list(&list));
    assert_eq!(read.len(), 3);
    for good in [&read[0], &read[2]] {
        assert!(good.problems.is_empty() && (good.update.is_some() || good.node.is_some()), "{good:?}");
    }
    check(&read[1], json);
    if let Some(read) = done(kind.event(&event)) {
        check(&read, json);
    }
});

fn check(read: &Read, json: &[u8]) {
    let Read { update, node, problems } = read;
    assert!(update.is_some() || node.is_some() || !problems.is_empty(), "nothing came of it, and nothing was said");
    assert!(problems.len() <= 21, "{} problems", problems.len());
    for problem in problems {
        assert!(!problem.message.is_empty() && problem.to_string().len() <= 1_500, "{problem}");
    }
    assert!(format!("{update:?}{node:?}").len() <= 2_000 + 200 * json.len(), "it has grown");
}

const SERVICE: &[u8] = br#"{"metadata":{"name":"good"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
const SLICE: &[u8] = br#"{"metadata":{"name":"good","labels":{"kubernetes.io/service-name":"good"}},"addressType":"IPv4","ports":[{"port":80}],"endpoints":[{"addresses":["10.1.0.1"]}]}"#;
const SERVICE_CIDR: &[u8] = br#"{"metadata":{"name":"good"},"spec":{"cidrs":["10.96.0.0/16"]}}"#;
const NODE: &[u8] =
    br#"{"metadata":{"name":"good"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}"#;
