//! docs/certificates.md tells which certificates work, as found out here (threats.md T7).
//!
//! Each row is made, shown to running gates over TLS 1.2 and 1.3, in chain and in pinned mode (T1), and what came of it is the
//! table. When the gate learns or unlearns a form, `TIDEGATE_WRITE_PAGES=1 cargo nextest run certificates_page` writes the page anew.

mod devices;
mod doors;
mod pins;
mod trusted;
mod workshop;

use std::fmt::Write as _;
use std::path::Path;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tidegate::pki::{Authority, Issued, Order, Validity};

use devices::{cas, chains, forms, keys, signatures, workshop};
use doors::{Case, Doors};
use pins::{odd, pins};
use trusted::{anchors, lists, servers};

use crate::support::openssl::{RSA_1024, RSA_2048, RSA_3072, RSA_4096, make_ahead};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/certificates.md");
const DAY: i64 = 24 * 3600;

type Versions = &'static [&'static SupportedProtocolVersion];
const EACH: [(Versions, &str); 2] = [(&[&TLS12], "-tls1_2"), (&[&TLS13], "-tls1_3")];

/// A row: what it is, and what came of it, cell by cell.
type Row = (String, Vec<String>);

fn now() -> i64 {
    Validity::days(0).not_after
}

fn meter() -> Order {
    Order::device_named("meter-7")
}

fn issue(authority: &Authority, order: Order) -> Issued {
    authority.issue(order).expect("issued")
}

fn put(name: &str, text: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_ref().to_vec())
}

// ---- the page ----

fn table(head: &[&str], rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for (what, cells) in rows {
        let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
    }
    text
}

/// The page with `table` between the marks of that name.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- {name}: made by a test; see the end of the page -->\n");
    let end = format!("<!-- {name} ends -->");
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("docs/certificates.md has no line {begin}"));
    let above = before.rsplit_once("\n#").map_or(before, |(_, above)| above);
    assert!(
        !above.contains("<!-- "),
        "{name}: a table needs a heading of its own"
    );
    let (_, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("docs/certificates.md has no line {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

/// The tables of what devices show: name, and text.
async fn devices() -> Vec<(&'static str, String)> {
    let authority = Authority::new("Test CA").expect("a CA");
    let shop = workshop(&authority);
    let tables = [
        ("keys", "key of the device", keys(&shop, &authority)),
        ("signatures", "signature of the CA", signatures(&shop)),
        ("forms", "certificate of the device", forms(&authority)),
        ("chains", "what the device sends", chains(&authority)),
        ("odd", "certificate of the device", odd(&authority)),
    ];
    let pins = pins(&authority);
    let mut cases: Vec<&[Case]> = tables.iter().map(|(_, _, cases)| &**cases).collect();
    cases.push(&pins);
    let doors = Doors::open(&cas(&shop), &cases).await;

    let mut texts = Vec::new();
    for (name, what, cases) in &tables {
        let head = [what, "chain", "certificate pinned", "key pinned"];
        texts.push((*name, table(&head, &doors.rows(cases).await)));
    }
    let head = [
        "what is shown, and what the registry says",
        "certificate pinned",
        "key pinned",
    ];
    texts.push(("pins", table(&head, &doors.pinned(&pins).await)));
    // Not that a device had failed to prove anything: what is wrong is the key (T3).
    for which in [
        "the device's certificate",
        "certificate 2 of the chain, \"CN=Short CA\",",
    ] {
        let told = format!("{which} has an RSA key of 1024 bits; have it issued");
        let is_told = |why: &str| why.starts_with(&told);
        let gate = &doors.chain.gate;
        gate.line("refused", |line| line["why"].as_str().is_some_and(is_told))
            .await;
    }
    texts
}

#[tokio::test]
async fn the_page_tells_what_works() {
    make_ahead(&[RSA_4096, RSA_3072, RSA_2048, RSA_1024]);
    let by_version = |what| [what, "TLS 1.2", "TLS 1.3"];
    let anchors = table(&by_version("certificate in `trust.ca`"), &anchors().await);
    let head = ["list", "a device in it", "another device"];
    let lists = table(&head, &lists().await);
    let mut tables = devices().await;
    tables.push(("anchors", anchors));
    tables.push(("lists", lists));
    let head = by_version("key of `listener.tls.certificate`");
    tables.push(("servers", table(&head, &servers().await)));
    let page = std::fs::read_to_string(PAGE).expect("docs/certificates.md");
    let mut fresh = page.clone();
    for (name, table) in &tables {
        fresh = with_table(&fresh, name, table);
    }
    if std::env::var_os("TIDEGATE_WRITE_PAGES").is_some() {
        std::fs::write(Path::new(PAGE), &fresh).expect("written");
        return;
    }
    let known: Vec<&str> = page.lines().collect();
    let news: Vec<&str> = fresh.lines().filter(|line| !known.contains(line)).collect();
    assert!(
        page == fresh,
        "docs/certificates.md does not tell what the gate does. If what it does is right, run\n  \
         TIDEGATE_WRITE_PAGES=1 cargo nextest run certificates_page\nand look at the difference. New lines:\n{}",
        news.join("\n")
    );
}
