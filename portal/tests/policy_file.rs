//! The policy file: the documented example is valid, and a wrong file says what is wrong and where.

use connlib_portal::policy::{Policy, Target, parse};

/// The policy of a small lab; tests put their mistakes into it.
const LAB: &str = r#"
[[site]]
name = "hq"

[[gateway]]
name = "gw"
site = "hq"

[[client]]
name = "alice"

[[resource]]
name = "net"
type = "cidr"
address = "10.88.0.0/24"
sites = ["hq"]

[[policy]]
name = "all"
groups = ["everyone"]
resources = ["net"]
"#;

#[test]
fn the_documented_example_is_valid() {
    let page = include_str!("../../docs/portal-policy.md");
    let start = page.find("```toml\n").expect("an example") + "```toml\n".len();
    let length = page[start..].find("\n```").expect("its end");
    let (policy, warnings) = parse(&page[start..start + length]).expect("a valid example");

    assert_eq!(warnings, []);
    assert_eq!(policy.account, "acme");
    assert_eq!((policy.sites.len(), policy.gateways.len(), policy.clients.len()), (2, 3, 2));
    assert_eq!((policy.resources.len(), policy.rules.len(), policy.relays.len()), (4, 3, 3));
    let engineers = rule(&policy, "engineers work");
    assert_eq!(engineers.max_session, Some(43_200));
    let builds = rule(&policy, "builds, until the move");
    assert_eq!(builds.expires, Some(1_932_739_200));
    let lab = policy.resources.values().find(|r| r.name == "paris lab").expect("paris lab");
    assert!(matches!(&lab.target, Target::Dns { pattern, .. } if pattern == "**.lab.corp.example"));
}

fn rule<'a>(policy: &'a Policy, name: &str) -> &'a connlib_portal::policy::Rule {
    policy.rules.values().find(|rule| rule.name == name).expect("a policy of that name")
}

#[test]
fn the_lab_is_valid_and_its_ids_do_not_depend_on_order() {
    let (policy, warnings) = parse(LAB).expect("valid");
    assert_eq!(warnings, []);
    let mut tables: Vec<_> = LAB.split("\n[[").skip(1).map(|table| format!("[[{table}")).collect();
    tables.reverse();
    let (reversed, _) = parse(&tables.join("\n")).expect("valid");
    assert_eq!(policy, reversed);
}

#[test]
fn a_mistake_is_reported_with_its_line_and_column() {
    // What is replaced by what, and where the error is and what it says.
    let table = [
        ("name = \"hq\"", "name = \"hq", (3, 11), "string"),
        ("[[site]]", "[[sites]]", (2, 3), "unknown field `sites`"),
        ("site = \"hq\"", "site = \"hq\"\ncolour = 1", (8, 1), "unknown field `colour`"),
        ("site = \"hq\"", "site = \"hqq\"", (7, 8), "no site is named \"hqq\"; there is \"hq\""),
        ("site = \"hq\"", "site = 3", (7, 8), "expected a string"),
        ("name = \"gw\"", "", (5, 1), "missing field `name`"),
        ("name = \"alice\"", "name = \" alice\"", (10, 8), "no space at either end"),
        ("name = \"alice\"", "name = \"alice\"\nid = \"7\"", (11, 6), "\"7\" is not a UUID"),
        (
            "name = \"alice\"",
            "name = \"alice\"\n[[client]]\nname = \"alice\"",
            (12, 8),
            "a second client",
        ),
        ("name = \"alice\"", "name = \"alice\"\nmax_devices = 0", (11, 15), "max_devices is 1 to"),
        ("type = \"cidr\"", "type = \"cdir\"", (14, 8), "unknown variant `cdir`"),
        ("type = \"cidr\"", "type = \"internet\"", (15, 11), "internet has no address"),
        ("type = \"cidr\"", "type = \"dns\"", (15, 11), "use type = \"cidr\""),
        ("10.88.0.0/24", "10.88.0.1/24", (15, 11), "write \"10.88.0.0/24\""),
        ("10.88.0.0/24", "100.64.0.0/16", (15, 11), "overlaps 100.64.0.0/10"),
        ("address = \"10.88.0.0/24\"", "", (13, 8), "needs an address"),
        ("sites = [\"hq\"]", "sites = []", (16, 9), "needs a site"),
        (
            "sites = [\"hq\"]",
            "sites = [\"hq\"]\nfilters = [\"tcp\", \"tcp/x\"]",
            (17, 19),
            "not a port",
        ),
        ("[\"everyone\"]", "[\"all\"]", (20, 11), "no group is named \"all\""),
        ("groups = [\"everyone\"]", "", (19, 8), "needs clients or groups"),
        ("[\"net\"]", "[\"nett\"]", (21, 14), "no resource is named \"nett\""),
        ("[\"net\"]", "[\"net\"]\nexpires = 2026-01-01", (22, 11), "with its offset"),
        ("[\"net\"]", "[\"net\"]\nmax_session = \"8\"", (22, 15), "not a length of time"),
        ("[\"net\"]", "[\"net\"]\n[dns]\nupstream_do53 = [\"9.9.9.9:53\"]", (23, 18), "not an IP"),
        (
            "[\"net\"]",
            "[\"net\"]\n[[relay]]\nname=\"r\"\ntype=\"turn\"\naddresses=[\"10.0.0.1:3478\"]",
            (24, 6),
            "username and password, or secret alone",
        ),
    ];
    for (from, to, at, says) in table {
        let text = LAB.replacen(from, to, 1);
        assert_ne!(text, LAB, "{from}");
        let rejected = parse(&text).expect_err(to);
        let first = &rejected.0[0];
        assert_eq!((first.line, first.column), at, "{to}: {first}");
        assert!(first.message.contains(says), "{to}: {first}");
    }
}

#[test]
fn all_mistakes_are_reported_together() {
    let text = LAB.replace("\"hq\"]", "\"x\"]").replace("[\"net\"]", "[\"y\"]");
    let rejected = parse(&text).expect_err("two mistakes");
    let lines: Vec<_> = rejected.0.iter().map(|diagnostic| diagnostic.line).collect();
    assert_eq!(lines, [16, 21]);
    assert_eq!(
        rejected.to_string(),
        "16:10: error: no site is named \"x\"; there is \"hq\"; \
         21:14: error: no resource is named \"y\"; there is \"net\""
    );
}

#[test]
fn what_is_likely_a_slip_is_a_warning() {
    let text = LAB.replace("[[gateway]]", "[[site]]\nname = \"empty\"\n[[gateway]]");
    let (_, warnings) = parse(&text).expect("usable");
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].to_string(), "6:8: warning: site \"empty\" has no gateway");
}
