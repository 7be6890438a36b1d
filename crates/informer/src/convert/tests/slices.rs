//! Endpoint slices.

use super::*;

#[test]
fn a_plain_slice() {
    let slice = good_slice(json!({"metadata": {"annotations": {
        "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.123456789Z"}}}));
    assert_eq!((slice.name.to_string().as_str(), slice.service.to_string().as_str()), ("shop/web-1", "shop/web"));
    assert_eq!(slice.family, Family::V4);
    assert_eq!((&*slice.ports[0].name, slice.ports[0].port.get()), ("http", 8080));
    let endpoint = &slice.endpoints[0];
    assert!(endpoint.ready && endpoint.serving && !endpoint.terminating && endpoint.local);
    let since = slice.triggered.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!((since.as_secs(), since.subsec_nanos()), (1_767_323_045, 123_456_789));
}

#[test]
fn conditions_and_locality() {
    let endpoint = |patch: Value| {
        let mut object = json!({"addresses": ["10.1.0.1", "10.1.0.2"]});
        merge(&mut object, patch);
        let e = &good_slice(json!({"endpoints": [object]})).endpoints[0];
        (e.ready, e.serving, e.terminating, e.local)
    };
    assert_eq!(endpoint(json!({})), (true, true, false, false));
    assert_eq!(endpoint(json!({"conditions": {"ready": null, "serving": null}})), (true, true, false, false));
    assert_eq!(
        endpoint(json!({"conditions": {"ready": false, "serving": true, "terminating": true}})),
        (false, true, true, false)
    );
    assert!(!endpoint(json!({"nodeName": "there"})).3);
    assert!(endpoint(json!({"nodeName": "here"})).3);
    let (slice, problem) =
        odd_slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": "no"}}]}));
    assert!(slice.endpoints[0].ready);
    assert!(problem.starts_with("endpoints[0].conditions.ready: "), "{problem}");
}

#[test]
fn hints_of_endpoints() {
    let object = |hints: Value| json!({"endpoints": [{"addresses": ["10.1.0.1"], "hints": hints}]});
    let hints = |hints: Value| good_slice(object(hints)).endpoints[0].hints.clone();
    let zones = |hints: &Hints| hints.zones.iter().map(ToString::to_string).collect::<Vec<_>>();
    let names = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    for none in [json!(null), json!({}), json!({"forZones": []}), json!({"forNodes": [], "forZones": null})] {
        assert_eq!(hints(none), None);
    }
    let found = hints(json!({"forZones": names(&["b", "a"]), "forNodes": names(&["there", "here"])})).unwrap();
    assert_eq!((zones(&found), found.nodes), (vec!["b".to_owned(), "a".to_owned()], NodeHint::ThisNode));
    let found = hints(json!({"forNodes": names(&["there"])})).unwrap();
    assert_eq!((zones(&found), found.nodes), (Vec::new(), NodeHint::Others));

    let (slice, problem) = odd_slice(object(json!({"forZones": [{"name": "a"}, {"name": ""}]})));
    assert_eq!(zones(slice.endpoints[0].hints.as_ref().unwrap()), ["a"]);
    assert_eq!(problem, "endpoints[0].hints.forZones[1].name: is empty: it is skipped");
    for (bad, field) in [
        (json!(5), "endpoints[0].hints: "),
        (json!({"forZones": "a"}), "endpoints[0].hints.forZones: "),
        (json!({"forZones": ["a"]}), "endpoints[0].hints.forZones[0]: "),
        (json!({"forNodes": [{"name": 5}]}), "endpoints[0].hints.forNodes[0].name: "),
    ] {
        let (slice, problem) = odd_slice(object(bad));
        assert_eq!(slice.endpoints[0].hints, None, "the endpoint is used all the same");
        assert!(problem.starts_with(field), "{problem}");
    }
}

#[test]
fn equal_hints_are_kept_once() {
    let endpoint = |n: usize| {
        let zone = if n.is_multiple_of(2) { "even" } else { "odd" };
        json!({"addresses": [format!("10.1.0.{}", n + 1)], "hints": {"forZones": [{"name": zone}]}})
    };
    let slice = good_slice(json!({"endpoints": (0..100).map(endpoint).collect::<Vec<_>>()}));
    let hints = |n: usize| slice.endpoints[n].hints.as_ref().unwrap();
    assert!((2..100).all(|n| Arc::ptr_eq(hints(n), hints(n % 2))) && hints(0) != hints(1));
}

#[test]
fn a_bad_endpoint_costs_only_itself() {
    for (bad, field) in [
        (json!({"addresses": ["x"]}), "endpoints[0].addresses[0]: \"x\" is not an IP address"),
        (json!({"addresses": ["fd00::1"]}), "endpoints[0].addresses[0]: fd00::1 is not an IPv4 address"),
        (json!({"addresses": ["127.0.0.1"]}), "endpoints[0].addresses[0]: 127.0.0.1 is a loopback address"),
        (json!({"addresses": ["0.0.0.0"]}), "endpoints[0].addresses[0]: 0.0.0.0 is the unspecified address"),
        (json!({"addresses": ["224.0.0.1"]}), "endpoints[0].addresses[0]: 224.0.0.1 is a multicast address"),
        (json!({"addresses": []}), "endpoints[0].addresses: is empty"),
        (json!({"addresses": 5}), "endpoints[0].addresses: invalid type"),
        (json!({"addresses": [5]}), "endpoints[0].addresses[0]: invalid type"),
        (json!(7), "endpoints[0]: invalid type"),
    ] {
        let (slice, problem) = odd_slice(json!({"endpoints": [bad, {"addresses": ["10.1.0.2"]}]}));
        assert_eq!(slice.endpoints.len(), 1);
        assert!(problem.starts_with(field) && problem.ends_with("skipped"), "{problem}");
    }
}

/// kube-proxy's BadIPs: leading zeros, as old objects may have them, are decimal.
#[test]
fn zero_padded_endpoint_addresses_are_read_as_decimal() {
    let read =
        |address: &str| good_slice(json!({"endpoints": [{"addresses": [address]}]})).endpoints[0].address.to_string();
    assert_eq!(read("010.180.000.001"), "10.180.0.1");
    assert_eq!(read("10.180.00.08"), "10.180.0.8");
    let (slice, problem) = odd_slice(json!({"endpoints": [{"addresses": ["127.000.000.001"]}]}));
    assert!(slice.endpoints.is_empty() && problem.contains("127.0.0.1 is a loopback address"), "{problem}");
}

#[test]
fn slice_ports() {
    // The API server would fill in name and protocol.
    let slice = good_slice(json!({"ports": [{"port": 80}]}));
    assert_eq!((&*slice.ports[0].name, slice.ports[0].protocol), ("", Protocol::Tcp));
    for bad in
        [json!({"name": "a"}), json!({"name": "a", "port": 0}), json!({"port": 65536}), json!({"name": 1, "port": 1})]
    {
        let (slice, problem) = odd_slice(json!({"ports": [bad, {"name": "b", "port": 1}]}));
        assert_eq!(slice.ports.len(), 1);
        assert!(problem.starts_with("ports[0]."), "{problem}");
    }
}

#[test]
fn slices_that_cannot_be_used_are_gone() {
    for (patch, field) in [
        (json!({"addressType": "FQDN"}), "addressType: host names (FQDN)"),
        (json!({"addressType": "IPX"}), "addressType: \"IPX\""),
        (json!({"addressType": null}), "addressType: is missing"),
        (json!({"metadata": {"labels": null}}), "metadata.labels[kubernetes.io/service-name]: is missing"),
        (
            json!({"metadata": {"labels": {"kubernetes.io/service-name": ""}}}),
            "metadata.labels[kubernetes.io/service-name]: is missing",
        ),
    ] {
        let (update, problems) = slice(patch);
        assert!(matches!(update, Update::SliceGone(ref name) if name.to_string() == "shop/web-1"), "{update:?}");
        assert!(problems.len() == 1 && problems[0].starts_with(field), "{problems:?}");
    }
}

#[test]
fn many_problems_of_one_object_are_cut_short() {
    let (update, problems) = slice(json!({"endpoints": vec![json!({"addresses": ["x"]}); 1000]}));
    assert!(matches!(update, Update::Slice(_)));
    assert_eq!(problems.len(), 21);
    assert_eq!(problems[20], ": 980 more problems of this object are not shown");
}
