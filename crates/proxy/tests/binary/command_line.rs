//! How a command line is read, and in which order what is wrong with it is told.

use std::fs;
use std::process::{Command, Output};

/// Runs the program in the namespace of the tests, with arguments with which it does nothing to it and ends.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kube-proxy")).args(arguments).output().unwrap()
}

/// Its exit code, and what it printed to standard output and to standard error.
fn printed(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run(arguments);
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Arguments with which it would succeed.
const QUIT: &str = "--write-config-to=/dev/null";

#[test]
fn the_version_is_one_that_tools_can_read() {
    let ours = format!("v1.36.2+slipstream.{}", env!("CARGO_PKG_VERSION"));
    for asked in ["--version", "--version=true", "--version=1"] {
        assert_eq!(printed(&[asked]), (Some(0), format!("Kubernetes {ours}\n"), String::new()), "{asked}");
    }
    let (code, raw, _) = printed(&["--version=raw"]);
    assert_eq!(code, Some(0));
    assert!(raw.starts_with(&format!("version.Info{{Major:\"1\", Minor:\"36\", GitVersion:{ours:?}")), "{raw}");
    for asked in ["--version=false", "--version=v1.36.2", "--version=v1.36.2-eks-1", "--version=v1.36.2+ours"] {
        assert_eq!(run(&[asked, QUIT]).status.code(), Some(0), "{asked}");
    }
    for asked in ["--version=v1.36.1", "--version=v1.36.20", "--version=maybe"] {
        let (code, _, error) = printed(&[asked, QUIT]);
        assert_eq!(code, Some(1), "{asked}");
        assert!(error.contains(&format!("Error: invalid argument {:?} for --version", &asked[10..])), "{error}");
    }
}

#[test]
fn flags_are_read_as_kube_proxy_reads_them() {
    let works: [&[&str]; 9] = [
        &[""],
        &["--proxy_mode=nftables", "--hostname_override", "a_b"],
        &["--profiling=T", "--masquerade-all=0"],
        &["--oom-score-adj", "-999"],
        &["-v=2"],
        &["-v", "2"],
        &["--v=1", "--v=2", "--proxy-mode=x", "--proxy-mode=nftables"],
        &["--feature-gates=A=true", "--feature-gates", "B=false"],
        &["--config=", "--kubeconfig=", "--master="],
    ];
    for arguments in works {
        let (code, _, error) = printed(&[arguments, &[QUIT]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
    }
    let fails = [
        ("--profiling=yes", "must be true or false"),
        ("--bind-address=node-1", "must be an IP address"),
        ("--conntrack-min=many", "invalid digit"),
        ("--iptables-sync-period=30", "is not a duration"),
        ("--feature-gates=A", "missing bool value"),
        ("--feature-gates=A=maybe", "invalid value of A"),
        ("--vmodule=a", "is not pattern=N"),
        ("--log-text-info-buffer-size=lots", "is not a quantity"),
        ("--nonsense", "unexpected argument"),
        ("-x", "unexpected argument"),
    ];
    for (flag, words) in fails {
        let (code, _, error) = printed(&[flag, QUIT]);
        assert_eq!(code, Some(1), "{flag}");
        let (usage, told) = error.split_once("\n\nError: ").unwrap();
        assert!(usage.starts_with("Usage: kube-proxy") && told.contains(words), "{flag}: {error}");
        assert_eq!(told.lines().count(), 1, "{error}");
    }
    for other in ["--kubeconfig=k", "--master=m"] {
        let (code, _, error) = printed(&["--manifest-dir=d", other, QUIT]);
        assert!(code == Some(1) && error.contains("cannot be used with"), "{error}");
    }
    let (code, help, _) = printed(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("--manifest-dir <DIR>") && help.contains("--oom-score-adj <SCORE>"), "{help}");
    let (code, _, error) = printed(&["--profiling", "false", QUIT]);
    assert_eq!(code, Some(1));
    assert!(error.contains(r#""kube-proxy" does not take any arguments, got ["false"]"#), "{error}");
}

#[test]
fn nobody_has_to_read_the_help_to_its_end() {
    for (asked, code) in [("--help", 0), ("--version", 0), ("--nonsense", 1)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kube-proxy"));
        let status = command.arg(asked).stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{asked}");
    }
}

/// Each step is told alone, and all that is wrong in it at once.
#[test]
fn mistakes_are_told_step_by_step() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.conf");
    let config = format!("--config={}", file.display());
    let mut text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n\
                    oomScoreAdj: 5000\n\
                    logging: {format: xml, verbosity: 4294967295}\n\
                    featureGates: {NFTablesProxyMode: false, MultiCIDRServiceAllocator: false}\n"
        .to_owned();
    let last = |text: &str, arguments: &[&str]| {
        fs::write(&file, text).unwrap();
        let (code, _, error) = printed(&[arguments, &[QUIT, &config]].concat());
        assert_eq!(code, Some(1), "{error}");
        let last = error.trim_end().lines().next_back().unwrap();
        let quoted = last.split_once(r#"] "command failed" err="#).unwrap_or_else(|| panic!("{error}")).1;
        serde_json::from_str::<String>(quoted).unwrap()
    };

    let blank = "failed complete: empty hostname-override is invalid: give the name of this machine's Node object";
    assert_eq!(last(&text, &["--hostname-override= "]), blank);
    let locked = |name: &str| format!("cannot set feature gate {name} to false, feature is locked to true");
    let both = [locked("MultiCIDRServiceAllocator"), locked("NFTablesProxyMode")].join(", ");
    assert_eq!(last(&text, &[]), format!("failed complete: [{both}]"));

    text = text.replace("false", "true");
    assert_eq!(
        last(&text, &[]),
        "initialize logging: [logging.format: Invalid value: \"xml\": Unsupported log format: use text or json, \
         logging.verbosity: Invalid value: 4294967295: must be less than or equal to 2147483647]"
    );

    let errors = last(&text, &["--logging-format=text", "-v=0"]);
    assert!(
        errors.starts_with("failed validate: [KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"ipvs\""),
        "{errors}"
    );
    assert!(errors.ends_with(
        ", KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 5000: must be within the range \
         [-1000, 1000]]"
    ));

    let kind = text.replace("KubeProxyConfiguration", "KubeletConfiguration");
    let refused = last(&kind, &[]);
    assert!(
        refused.starts_with("failed complete: failed to decode: ") && refused.contains("KubeletConfiguration"),
        "{refused}"
    );
    let unknown = last("apiVersion: kubeproxy.config.k8s.io/v1beta1\nkind: KubeProxyConfiguration\n", &[]);
    assert!(unknown.starts_with("failed complete: failed to decode: ") && unknown.contains("v1beta1"), "{unknown}");
}

/// Metrics cannot be switched off, as with kube-proxy.
#[test]
fn a_metrics_port_of_zero_is_refused() {
    let (code, _, error) = printed(&["--metrics-port=0", QUIT]);
    assert_eq!(code, Some(1));
    let path = r#"failed validate: KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"\": must be IP:port"#;
    assert!(error.contains(path), "{error}");
}

#[test]
fn what_is_odd_is_warned_of_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.conf");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\nbindadress: x\n\
                featureGates: {NoSuchGate: true, AllAlpha: true, HPAScaleToZero: true}\n";
    fs::write(&file, text).unwrap();
    let (code, _, log) = printed(&["--force-nftables", QUIT, &format!("--config={}", file.display())]);
    assert_eq!(code, Some(0), "{log}");
    for words in [
        "Using lenient decoding as strict decoding failed: unknown field bindadress",
        "unrecognized feature gate: NoSuchGate",
        "mode is iptables: Slipstream runs nftables all the same, as --force-nftables says, with masqueradeAll",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("HPAScaleToZero") && !log.contains("AllAlpha"), "{log}");
    let (_, _, log) = printed(&[QUIT]);
    assert!(log.contains("mode is not set"), "{log}");
}
