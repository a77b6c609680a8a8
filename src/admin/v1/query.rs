//! What stands behind the `?` of a path.

use super::reply::Problem;

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// How many are told at once, unless the caller says.
const LIMIT: u32 = 100;
/// The most that are told at once.
const MOST: u32 = 1000;

impl Query {
    /// Reads them. What is not among `known` is refused: a misspelt filter would show, or end, too much.
    pub(super) fn read(text: &str, known: &[&str]) -> Result<Self, Problem> {
        let all: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect();
        match all.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(Self(all)),
            Some((name, _)) => {
                let there = match known {
                    [] => "nothing may stand behind the ? here".to_owned(),
                    _ => format!("known here: {}", known.join(", ")),
                };
                Err(Problem::bad_request(format!(
                    "parameter {name:?} is not known; {there}"
                )))
            }
        }
    }

    /// The one value of a parameter.
    pub(super) fn one<'q>(&'q self, name: &'q str) -> Result<Option<&'q str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::bad_request(format!(
                "parameter {name} is there twice; leave one of them"
            )));
        }
        Ok(first)
    }

    /// Every value of a parameter.
    pub(super) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// The one number of a parameter.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| Problem::bad_request(format!("parameter {name} is no number")))
        };
        self.one(name)?.map(read).transpose()
    }

    /// How many are to be told at once.
    pub(super) fn limit(&self) -> Result<u32, Problem> {
        let limit = self.number("limit")?.unwrap_or(LIMIT.into());
        let limit = u32::try_from(limit).unwrap_or(0);
        if (1..=MOST).contains(&limit) {
            return Ok(limit);
        }
        let what = format!("parameter limit is not within 1 to {MOST}; follow next for more");
        Err(Problem::bad_request(what))
    }

    /// Where the next page is: the same question, from behind `after`.
    pub(super) fn next(&self, path: &str, after: &str) -> String {
        let mut next = form_urlencoded::Serializer::new(String::new());
        for (name, value) in self.0.iter().filter(|(name, _)| name != "after") {
            next.append_pair(name, value);
        }
        next.append_pair("after", after);
        format!("{path}?{}", next.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_parameter_is_refused() {
        assert!(Query::read("limt=3", &["limit"]).is_err());
        assert!(Query::read("limit=3", &[]).is_err());
        assert!(Query::read("", &[]).is_ok());
    }

    #[test]
    fn a_limit_is_within_bounds() {
        for (text, limit) in [
            ("", Some(100)),
            ("limit=1", Some(1)),
            ("limit=1000", Some(1000)),
            ("limit=0", None),
            ("limit=1001", None),
            ("limit=4294967297", None),
            ("limit=-1", None),
            ("limit=", None),
            ("limit=1&limit=2", None),
        ] {
            let query = Query::read(text, &["limit"]).expect("known");
            assert_eq!(query.limit().ok(), limit, "{text}");
        }
    }

    #[test]
    fn the_next_page_has_the_same_question() {
        let known = ["label", "after", "limit"];
        let query = Query::read("label=a%3Db+c&after=x&limit=2", &known).expect("known");
        let next = query.next("/v1/devices", "a:b&c");
        assert_eq!(next, "/v1/devices?label=a%3Db+c&limit=2&after=a%3Ab%26c");
    }
}
