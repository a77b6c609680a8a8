//! A run as one page: no script, nothing fetched, light and dark.

mod tables;

use super::json::word;
use super::plots;
use super::report::Report;
use super::times::{self, P99};
use super::words::{self, count, micros, three};
use tables::{costs, errors, harness, latencies, negotiated, seconds, setup};

const STYLE: &str = include_str!("report.css");

/// The page. Every text in it is escaped; it is whole in itself and can be sent around as a file.
pub fn html(report: &Report) -> String {
    let headline = escape(&words::headline(report));
    let figures = plots::charts(report).into_iter().map(|chart| {
        let (title, legend, svg) = (escape(&chart.title), chart.legend(), chart.svg());
        format!("<figure class=\"card\">\n<h2>{title}</h2>\n{legend}{svg}</figure>\n")
    });
    // One alone would leave half of a wide page empty: it stands among the tables.
    let (pairs, lone) = match figures.collect::<Vec<_>>().as_slice() {
        [] => (String::new(), String::new()),
        [one] => (String::new(), one.clone()),
        many => {
            let pairs = format!("<div class=\"pair\">\n{}</div>\n", many.concat());
            (pairs, String::new())
        }
    };
    let tables = [
        latencies(report),
        errors(report),
        negotiated(report),
        costs("Server", &words::server_costs(report)),
        harness(report),
        setup(report),
    ];
    let tables = tables.map(|table| match table.as_str() {
        "" => table,
        table => format!("<section class=\"card wide\">\n{table}</section>\n"),
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{headline} · tidegate bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{headline}</h1>\n{}{}{}{pairs}\
         <div class=\"tables\">\n{lone}{}</div>\n{}\
         <footer class=\"soft\">tidegate {}</footer>\n</main>\n</body>\n</html>\n",
        subtitle(report),
        limits(report),
        numbers(report),
        tables.concat(),
        seconds(&plots::steps(report)),
        env!("CARGO_PKG_VERSION"),
    )
}

/// `text` as it may stand in an element or a quoted attribute; what would not be seen is written out.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in words::printable(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

fn subtitle(report: &Report) -> String {
    let began = words::began(report).map_or_else(String::new, |began| {
        format!(", begun <time datetime=\"{began}\">{began}</time>")
    });
    let (bench, target) = (word(report.scenario), escape(&report.target));
    format!(
        "<p class=\"sub soft\"><code>bench {bench}</code> against <code>{target}</code>{began}</p>\n"
    )
}

/// What nobody may overlook stands before the figures that it is about.
fn limits(report: &Report) -> String {
    let reasons = &report.client.bottlenecks;
    if reasons.is_empty() {
        return String::new();
    }
    let item = |reason: &String| format!("<li>{}</li>\n", escape(reason));
    let reasons = reasons.iter().map(item).collect::<Vec<_>>().concat();
    format!(
        "<div class=\"warn\" role=\"note\">\n<p>The figures of this page are the limit of the harness, which made the \
         load, and not of the target:</p>\n<ul>\n{reasons}</ul>\n</div>\n"
    )
}

fn numbers(report: &Report) -> String {
    let (one, many) = words::nouns(report.scenario);
    let mut numbers = vec![
        (format!("{many} a second"), three(report.per_second())),
        (
            "succeeded".to_owned(),
            words::share(report.succeeded, report.attempts),
        ),
        ("errors".to_owned(), count(report.failed())),
    ];
    let timed = report.latencies.iter().filter_map(|of| {
        let (which, slow) = times::slow(P99.of(&of.micros), times::longest(&of.micros))?;
        let name = of.name.replace('_', " ");
        Some((format!("{name}, {which}"), micros(slow)))
    });
    numbers.extend(timed.take(2));
    if let Some(each) = report.server_micros_each() {
        numbers.push((format!("server's CPU per {one}"), words::span(each)));
    }
    if let Some(each) = report.server_nanos_per_byte() {
        numbers.push((
            "server's CPU per byte".to_owned(),
            format!("{} ns", three(each)),
        ));
    }
    if let Some(each) = report.server_kib_each() {
        numbers.push((
            "server's memory per connection".to_owned(),
            words::kib(each),
        ));
    }
    let shown = numbers.iter().map(|(name, number)| {
        format!(
            "<div><dt>{}</dt><dd>{}</dd></div>\n",
            escape(name),
            escape(number)
        )
    });
    format!(
        "<dl class=\"numbers\">\n{}</dl>\n",
        shown.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bench::report::{Scenario, samples};

    #[test]
    fn the_page_tells_what_the_table_tells() {
        let page = html(&samples::handshakes());
        for told in [
            "<h1>990 of 1000 handshakes in 10.0 s: 98.8/s</h1>",
            "against <code>127.0.0.1:8883</code>, begun <time datetime=\"2026-11-26T23:30:00Z\">",
            "<dt>handshake, p99</dt><dd>1.89 ms</dd>",
            "<dt>server&#39;s CPU per handshake</dt><dd>123 µs</dd>",
            "<tr><th scope=\"row\">refused<small>nothing listens there</small></th><td class=\"n\">10</td><td class=\"n\">1.0 %</td></tr>",
            "<tr><th scope=\"row\">CPU</th><td>4 × Example 9000</td></tr>",
            "<tr><th scope=\"row\">TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full</th><td class=\"n\">990</td></tr>",
            "<tr><th scope=\"row\">1</th><td class=\"n\">490</td>",
        ] {
            assert!(page.contains(told), "{told} is not in {page}");
        }
        assert!(
            !page.contains("class=\"warn\""),
            "there is nothing to warn of"
        );
        assert_eq!(page.matches("<figure ").count(), 4);
        for explained in [
            "<dt>handshake</dt><dd>until the device&#39;s part of the handshake was over</dd>",
            "too few: p90 is told of at least 10 times, p99 of 100, p99.9 of 1000",
            "The harness is the program that made the load",
        ] {
            assert!(page.contains(explained), "{explained} is not in {page}");
        }
        assert!(!page.contains("<dt>waited</dt>"), "nobody did");
    }

    #[test]
    fn a_limit_of_the_harness_comes_before_the_figures() {
        let page = html(&samples::limited());
        let warning = page.find("<div class=\"warn\"").expect("a warning");
        assert!(warning < page.find("<dl ").expect("figures"));
        assert!(
            page.contains("<li>its busiest thread used 97 % of a core:"),
            "{page}"
        );
    }

    #[test]
    fn nothing_is_fetched_and_nothing_runs() {
        for report in [
            samples::handshakes(),
            samples::limited(),
            samples::relay(),
            samples::connections(),
        ] {
            let page = html(&report);
            for never in [
                "http://", "https://", "<script", "<link", "<img", "url(", "@import", "src=",
            ] {
                assert!(!page.contains(never), "{never}");
            }
        }
    }

    #[test]
    fn text_from_outside_is_text() {
        let evil = "\"'><script>alert(1)</script>&\u{202e}\0";
        let safe = "&quot;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;\\u{202e}\\u{0}";
        assert_eq!(escape(evil), safe);

        let mut report = samples::handshakes();
        report.target = evil.to_owned();
        report.setup = vec![("CPU", evil.to_owned())];
        report.negotiated = [(evil.to_owned(), 1)].into();
        report.client.bottlenecks = vec![evil.to_owned()];
        let page = html(&report);
        assert!(!page.contains("<script"));
        assert_eq!(
            page.matches(safe).count(),
            5,
            "target twice, setup, negotiated, warning"
        );
    }

    #[test]
    fn a_run_with_nothing_is_a_page_too() {
        for scenario in [Scenario::Handshake, Scenario::Connections, Scenario::Relay] {
            let page = html(&samples::nothing(scenario));
            assert!(
                page.contains("Nothing was timed") && !page.contains("<figure"),
                "{page}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))] // a page is long
        #[test]
        fn every_run_is_a_page(report in samples::any()) {
            let page = html(&report);
            prop_assert!(page.ends_with("</html>\n"));
            prop_assert!(!page.contains("NaN") && !page.contains(">inf"));
            for element in ["table", "svg", "section", "figure", "div", "tr", "title"] {
                let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
                prop_assert_eq!(opened, page.matches(&format!("</{element}>")).count());
            }
        }
    }
}
