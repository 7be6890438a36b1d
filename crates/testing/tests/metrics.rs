//! The reader of metrics takes what is right, and nothing else.

use testing::metrics::{parse, tables};

const PAGE: &str = "# HELP a_seconds How <long>\n# TYPE a_seconds histogram\na_seconds_bucket{host=\"x:1\",le=\"0.5\"} 1\n\
                    a_seconds_bucket{host=\"x:1\",le=\"10\"} 1\na_seconds_bucket{host=\"x:1\",le=\"+Inf\"} 2\n\
                    a_seconds_sum{host=\"x:1\"} 20.5\na_seconds_count{host=\"x:1\"} 2\n\
                    # HELP b Which\n# TYPE b gauge\nb -1\n";

#[test]
fn a_page_becomes_tables() {
    let (metrics, buckets) = tables(&parse(PAGE).unwrap());
    assert_eq!(metrics, ["| `a_seconds` | histogram | `host` | How &lt;long> |", "| `b` | gauge |  | Which |"]);
    assert_eq!(buckets, ["| `a_seconds` | 0.5, 10, +Inf |"]);
}

#[test]
fn what_is_malformed_is_refused() {
    for (right, wrong) in [
        ("b -1\n", "b -1"),
        ("b -1\n", "b -1\nb -1\n"),
        ("b -1\n", "b one\n"),
        ("b -1\n", "c 1\n"),
        ("b -1\n", ""),
        ("b -1\n", "b{x=1} 1\n"),
        ("b -1\n", "b{x=\"1\" 1\n"),
        ("b -1\n", "b{x=\"1\"} 1\nb{y=\"1\"} 1\n"),
        ("b gauge", "b counter"),
        ("b gauge", "b summary"),
        ("# TYPE b gauge\n", ""),
        ("# HELP b Which\n", ""),
        ("# HELP b Which\n# TYPE b gauge\nb -1\n", "# HELP a_seconds Again\n# TYPE a_seconds gauge\na_seconds 1\n"),
        ("a_seconds_count", "a_seconds_number"),
        (",le=\"10\"", ""),
    ] {
        let page = PAGE.replace(right, wrong);
        assert!(parse(&page).is_err(), "{wrong:?} for {right:?} was taken:\n{page}");
    }
}
