//! What a visitor asks: the parameters of a request, checked.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::database::{Parameter, Statement};
use super::error::Error;

/// In characters: a page of text, longer than what a model sees.
pub const MAX_QUESTION: usize = 1000;
pub const MAX_LIMIT: i32 = 50;
const DEFAULT_LIMIT: i32 = 10;

/// The parameters as they come.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// What is searched for, up to 1,000 characters
    #[param(required, max_length = 1000, example = "how do I get rid of dead rows?")]
    q: Option<String>,
    /// How many sections, 1 to 50; 10 without it
    #[param(value_type = Option<i32>, minimum = 1, maximum = 50)]
    limit: Option<String>,
    /// The number of a part of the manual; all parts without it
    #[param(value_type = Option<i16>, minimum = 1)]
    part: Option<String>,
    /// Whether to search by words, by meaning, or by both, as without it
    #[param(value_type = Option<Mode>)]
    mode: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Both,
    Meaning,
    Words,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Both, Mode::Meaning, Mode::Words];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Both => "both",
            Mode::Meaning => "meaning",
            Mode::Words => "words",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Mode::Both => "Both",
            Mode::Meaning => "Meaning",
            Mode::Words => "Words",
        }
    }

    pub fn embeds(self) -> bool {
        self != Mode::Words
    }

    fn sql(self) -> &'static str {
        match self {
            Mode::Both => include_str!("../../sql/both.sql"),
            Mode::Meaning => include_str!("../../sql/meaning.sql"),
            Mode::Words => include_str!("../../sql/words.sql"),
        }
    }
}

/// A question. `text` is empty when none was asked yet.
#[derive(Clone, Debug)]
pub struct Ask {
    pub text: String,
    pub mode: Mode,
    pub part: Option<i16>,
    pub limit: i32,
}

impl Ask {
    /// # Errors
    /// [`Error::BadRequest`], with a reason.
    pub fn new(parameters: &Parameters, parts: usize) -> Result<Ask, Error> {
        let bad = |reason: String| Err(Error::BadRequest(reason));
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let text = parameters.q.as_deref().unwrap_or_default().trim().to_string();
        if text.chars().count() > MAX_QUESTION {
            return bad(format!("q is longer than {MAX_QUESTION} characters"));
        }
        if text.contains('\0') {
            return bad("q has a character of code 0, which Postgres's texts cannot have".to_string());
        }
        let mode = match given(&parameters.mode) {
            None => Mode::default(),
            Some(name) => match Mode::ALL.into_iter().find(|mode| mode.name() == name) {
                Some(mode) => mode,
                None => return bad("mode is none of both, meaning and words".to_string()),
            },
        };
        let part = match given(&parameters.part).map(|part| part.parse::<i16>()) {
            None => None,
            Some(Ok(part)) if usize::try_from(part).is_ok_and(|part| (1..=parts).contains(&part)) => {
                Some(part)
            }
            Some(_) => return bad(format!("part is no number from 1 to {parts}")),
        };
        let limit = match given(&parameters.limit).map(|limit| limit.parse::<i32>()) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
            Some(_) => return bad(format!("limit is no number from 1 to {MAX_LIMIT}")),
        };
        Ok(Ask { text, mode, part, limit })
    }

    /// The statement that answers. A condition on the part is there only if there is one, so that the plan is the best for it.
    pub fn statement(&self) -> Statement {
        let mut parameters = vec![Parameter::Text(self.text.clone()), Parameter::Integer(self.limit)];
        let in_part = match self.part {
            None => "",
            Some(part) => {
                parameters.push(Parameter::Smallint(part));
                " AND part = $3"
            }
        };
        let sql = self.mode.sql().replace("{and_part}", in_part);
        Statement { sql, parameters }
    }
}

/// The sections that are like one of them.
#[derive(Clone, Copy, Debug)]
pub struct Like {
    pub part: i16,
    pub id: i32,
}

impl Like {
    /// Written `part.id`.
    ///
    /// # Errors
    /// [`Error::BadRequest`]
    pub fn new(section: &str) -> Result<Like, Error> {
        section
            .split_once('.')
            .and_then(|(part, id)| Some(Like { part: part.parse().ok()?, id: id.parse().ok()? }))
            .ok_or_else(|| Error::BadRequest("section is no part and number, such as 3.17".to_string()))
    }

    pub fn statement(self) -> Statement {
        Statement {
            sql: include_str!("../../sql/like.sql").to_string(),
            parameters: vec![
                Parameter::Smallint(self.part),
                Parameter::Integer(self.id),
                Parameter::Integer(DEFAULT_LIMIT),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(q: &str, limit: &str, part: &str, mode: &str) -> Result<Ask, String> {
        let some = |value: &str| Some(value.to_string());
        let parameters = Parameters { q: some(q), limit: some(limit), part: some(part), mode: some(mode) };
        Ask::new(&parameters, 10).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let ask = ask(" dead rows ", "", "", "").unwrap();
        assert_eq!((ask.text.as_str(), ask.mode, ask.part, ask.limit), ("dead rows", Mode::Both, None, 10));
        let nothing = Ask::new(&Parameters::default(), 10).unwrap();
        assert_eq!(nothing.text, "");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (limit, part, mode) in [
            ("0", "", ""),
            ("51", "", ""),
            ("ten", "", ""),
            ("99999999999999999999", "", ""),
            ("", "0", ""),
            ("", "11", ""),
            ("", "-1", ""),
            ("", "1; DROP TABLE section", ""),
            ("", "", "Both"),
            ("", "", "sql"),
        ] {
            assert!(ask("x", limit, part, mode).is_err(), "{limit} {part} {mode}");
        }
        assert!(ask(&"x".repeat(MAX_QUESTION), "", "", "").is_ok());
        assert!(ask(&"ä".repeat(MAX_QUESTION), "", "", "").is_ok());
        assert!(ask(&"x".repeat(MAX_QUESTION + 1), "", "", "").is_err());
        assert!(ask("a\0b", "", "", "").is_err());
    }

    #[test]
    fn a_question_is_a_parameter() {
        for mode in ["both", "meaning", "words"] {
            let with = ask("'; DROP TABLE section; --", "5", "3", mode).unwrap().statement();
            assert!(
                with.sql.contains("part = $3") && !with.sql.contains("DROP") && !with.sql.contains("{and"),
                "{}",
                with.sql
            );
            assert_eq!(with.parameters[0].literal(), "'''; DROP TABLE section; --'");
            let without = ask("x", "5", "", mode).unwrap().statement();
            assert!(!without.sql.contains("$3") && !without.sql.contains("{and"), "{}", without.sql);
        }
    }

    #[test]
    fn a_section_is_two_numbers() {
        let like = Like::new("3.17").unwrap();
        assert_eq!((like.part, like.id), (3, 17));
        for section in ["", "3", "3.", ".17", "3.17.1", "99999.1", "a.b"] {
            assert!(Like::new(section).is_err(), "{section}");
        }
    }
}
