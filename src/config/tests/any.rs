//! Whatever is written, it is judged without a panic.

use proptest::prelude::*;

use super::*;

fn any_value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(toml::Value::Integer),
        any::<f64>().prop_map(toml::Value::Float),
        any::<bool>().prop_map(toml::Value::Boolean),
        "\\PC{0,12}".prop_map(toml::Value::String),
        prop::sample::select(vec![
            "mutual-tls",
            "plain",
            "{device}",
            "10s",
            "16KiB",
            "0.0.0.0:1",
            "mqtt://a@b",
            "default",
            ""
        ])
        .prop_map(|text| toml::Value::String(text.to_owned())),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let words = keys().into_iter().flat_map(|key| {
            key.replace("[]", "")
                .split('.')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        let key =
            prop_oneof![4 => prop::sample::select(words.collect::<Vec<_>>()), 1 => "\\PC{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(toml::Value::Array),
            prop::collection::btree_map(key, inner, 0..6)
                .prop_map(|table| toml::Value::Table(table.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever is written in a section, it is judged, without a panic; what passes can be printed and loaded again.
    #[test]
    fn no_values_make_it_panic(section in prop::sample::select(&SECTIONS[..]), value in any_value()) {
        let mut file = toml::Table::new();
        file.insert(section.to_owned(), value);
        if let Ok(config) = Operator::writes(&file.to_string()).loads() {
            Operator::writes(&config.to_toml()).loads().expect("good again");
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}", name in "[A-Z0-9_]{0,20}", value in "\\PC{0,20}") {
        let _ = Operator::writes(&text).sets(&format!("TIDEGATE_{name}"), &value).loads();
        let _ = Operator::writes(GOOD).sets(&format!("TIDEGATE_LISTENER__{name}"), &value).loads();
    }

    #[test]
    fn any_flag_is_judged(values in prop::collection::vec("\\PC{0,20}", 13)) {
        let [listen, mode, certificate, key, ca, crl, field, broker, admin, b_ca, b_certificate, b_key, b_name] =
            <[String; 13]>::try_from(values).expect("thirteen");
        let flags = Flags {
            listen: vec![listen],
            mode: Some(mode),
            certificate: Some(certificate),
            key: Some(key),
            client_ca: vec![ca],
            crl: vec![crl],
            device_field: Some(field),
            broker: vec![broker],
            broker_ca: Some(b_ca),
            broker_certificate: Some(b_certificate),
            broker_key: Some(b_key),
            broker_name: Some(b_name),
            admin: Some(admin),
        };
        for fault in Operator::default().types(flags).loads().err().unwrap_or_default() {
            prop_assert!(!fault.to_string().contains(char::is_control), "{fault:?}");
        }
    }
}
