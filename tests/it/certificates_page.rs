//! docs/certificates.md tells which certificates work, as found out here (threats.md T7).
//!
//! Each row is made, shown to a running gate over TLS 1.2 and 1.3, and what came of it is the table. When the gate learns
//! or unlearns a form, `TIDEGATE_WRITE_PAGES=1 cargo nextest run certificates_page` writes the page anew.

mod devices;
mod trusted;
mod workshop;

use std::fmt::Write as _;
use std::path::Path;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tidegate::pki::{Authority, Issued, Order, Validity};

use devices::{chains, forms, keys_and_signatures};
use trusted::{anchors, lists, servers};

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

fn table(head: [&str; 3], rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|---|---|---|\n", head.join(" | "));
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
    let above = before.trim_end().lines().next_back().unwrap_or_default();
    assert!(
        above.starts_with("### "),
        "{name}: a table needs a heading, and stands below {above:?}"
    );
    let (_, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("docs/certificates.md has no line {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

#[tokio::test]
async fn the_page_tells_what_works() {
    let (keys, signatures) = keys_and_signatures().await;
    let device = |what| [what, "TLS 1.2", "TLS 1.3"];
    let tables = [
        ("keys", table(device("key of the device"), &keys)),
        (
            "signatures",
            table(device("signature of the CA"), &signatures),
        ),
        (
            "forms",
            table(device("certificate of the device"), &forms().await),
        ),
        (
            "chains",
            table(device("what the device sends"), &chains().await),
        ),
        (
            "anchors",
            table(device("certificate in `trust.ca`"), &anchors().await),
        ),
        (
            "lists",
            table(["list", "a device in it", "another device"], &lists().await),
        ),
        (
            "servers",
            table(
                device("key of `listener.tls.certificate`"),
                &servers().await,
            ),
        ),
    ];
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
