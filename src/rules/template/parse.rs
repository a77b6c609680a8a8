//! Text → pieces, and the rule that keeps two devices from getting one name.

use super::placeholder::Placeholder;
use super::{Use, in_a_name};
use crate::rules::device::Alphabet;

/// A part of a template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Literal(String),
    Fact(Placeholder),
}

/// The most bytes that a string in an MQTT packet may have (MQTT 5.0 §1.5.4).
pub(super) const LONGEST: usize = 65_535;

/// Why a text is no template. Characters are counted from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateFault {
    /// A `{` without its `}`.
    #[error(
        "the {{ at character {at} is never closed; close it with }}, or write {{{{ for a brace that stays"
    )]
    Unclosed {
        /// Where the brace is.
        at: usize,
    },
    /// A `}` without its `{`.
    #[error(
        "the }} at character {at} closes nothing; remove it, or write }}}} for a brace that stays"
    )]
    Stray {
        /// Where the brace is.
        at: usize,
    },
    /// No such placeholder, but one that is spelt much like it.
    #[error("there is no placeholder {found:?} (character {at}); did you mean {nearest}?")]
    Misspelt {
        /// What was written, with its braces; its start, when it is long.
        found: String,
        /// Where its brace is.
        at: usize,
        /// The known placeholder that is nearest.
        nearest: &'static str,
    },
    /// No such placeholder.
    #[error(
        "there is no placeholder {found:?} (character {at}); known are {}; write {{{{ and }}}} for braces that stay",
        known()
    )]
    Unknown {
        /// What was written, with its braces; its start, when it is long.
        found: String,
        /// Where its brace is.
        at: usize,
    },
    /// A control character.
    #[error("{character:?} at character {at} is a control character; remove it")]
    Control {
        /// The character.
        character: char,
        /// Where it is.
        at: usize,
    },
    /// A character that no name should hold.
    #[error(
        "{character:?} at character {at} has a meaning of its own to brokers (+ # $ and white space never stand in a name); replace it, for example with / or -"
    )]
    NotInAName {
        /// The character.
        character: char,
        /// Where it is.
        at: usize,
    },
    /// Longer than any string in MQTT.
    #[error("it is {bytes} bytes long, but MQTT strings end at 65535; shorten it")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// `{device}` is not in it.
    #[error("{{device}} is not in it, so devices would share one name; put {{device}} into it")]
    NoDevice,
    /// `{device}` and another placeholder run into each other.
    #[error(
        "{{device}} runs into {neighbour}, so two devices could get one name; put a character between them that no device id can hold, such as /"
    )]
    RunsInto {
        /// The placeholder beside `{device}`.
        neighbour: &'static str,
    },
    /// There are placeholders on both sides of `{device}` whose texts could look like the characters around it.
    #[error(
        "{left} and {right} stand on either side of {{device}}, where their texts could pass for another device's name; put both on the same side of {{device}}"
    )]
    BothSides {
        /// The placeholder in front of `{device}`.
        left: &'static str,
        /// The placeholder behind it.
        right: &'static str,
    },
}

/// The known placeholders, for a sentence.
fn known() -> String {
    Placeholder::ALL.map(Placeholder::word).join(" ")
}

/// Reads the pieces of a template.
pub(super) fn pieces(text: &str, use_: Use) -> Result<Vec<Piece>, TemplateFault> {
    if text.len() > LONGEST {
        return Err(TemplateFault::TooLong { bytes: text.len() });
    }
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().enumerate().peekable();
    while let Some((index, c)) = rest.next() {
        let at = index + 1;
        let doubled = rest.next_if(|(_, next)| matches!(c, '{' | '}') && *next == c);
        match c {
            '{' if doubled.is_none() => {
                let mut inside = String::new();
                loop {
                    match rest.next() {
                        Some((_, '}')) => break,
                        Some((_, c)) => inside.push(c),
                        None => return Err(TemplateFault::Unclosed { at }),
                    }
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Fact(placeholder(&inside, at)?));
            }
            '}' if doubled.is_none() => return Err(TemplateFault::Stray { at }),
            character if character.is_control() => {
                return Err(TemplateFault::Control { character, at });
            }
            character if use_ == Use::Name && !in_a_name(character) => {
                return Err(TemplateFault::NotInAName { character, at });
            }
            c => literal.push(c),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Reads what stood between braces.
fn placeholder(inside: &str, at: usize) -> Result<Placeholder, TemplateFault> {
    if let Some(known) = Placeholder::from_inside(inside) {
        return Ok(known);
    }
    let start: String = inside.chars().take(40).collect();
    let found = format!("{{{start}}}");
    Err(match Placeholder::nearest(inside) {
        Some(nearest) => TemplateFault::Misspelt {
            found,
            at,
            nearest: nearest.word(),
        },
        None => TemplateFault::Unknown { found, at },
    })
}

/// Whether two devices can never get the same text, whatever else is known about them (threats.md I3).
///
/// `which` is `{device}`; or `{trust}`, and then the same is said of two trust groups (I7): the names of groups are of every
/// alphabet, too. The proof, for one `{device}` with a literal *fence* on each side that has placeholders:
///
/// - Without placeholders on a side, the device id starts (or ends) at a fixed place. Its other end is the first
///   character that no device id holds: there is one in the fence, and what stands before it in the fence is fixed.
/// - With placeholders on both sides, one side must have a character in its fence that no device id and no placeholder
///   of that side holds. That side then holds it a fixed number of times; counting from the outside, the last one marks
///   the fence, and so the place where the device id starts. The other end is found as before.
///
/// Any one `{device}` that is set off so will do.
pub(super) fn tells_apart(
    which: Placeholder,
    pieces: &[Piece],
    alphabet: &Alphabet,
) -> Result<(), TemplateFault> {
    let mut fault = TemplateFault::NoDevice;
    for (i, piece) in pieces.iter().enumerate() {
        if *piece != Piece::Fact(which) {
            continue;
        }
        let left = Side::of(pieces[..i].iter().rev(), alphabet);
        let right = Side::of(pieces[i + 1..].iter(), alphabet);
        match set_off(&left, &right) {
            Ok(()) => return Ok(()),
            Err(found) if fault == TemplateFault::NoDevice => fault = found,
            Err(_) => {}
        }
    }
    Err(fault)
}

/// What stands on one side of `{device}`.
struct Side {
    /// The characters of the literal next to it that no device id holds.
    fence: Vec<char>,
    /// The placeholders, the nearest first.
    placeholders: Vec<Placeholder>,
}

impl Side {
    /// Takes the pieces from `{device}` outwards.
    fn of<'p>(outwards: impl Iterator<Item = &'p Piece> + Clone, alphabet: &Alphabet) -> Self {
        let fence = match outwards.clone().next() {
            Some(Piece::Literal(text)) => text.chars().filter(|c| !alphabet.holds(*c)).collect(),
            _ => Vec::new(),
        };
        let placeholders = outwards.filter_map(|piece| match piece {
            Piece::Fact(placeholder) => Some(*placeholder),
            Piece::Literal(_) => None,
        });
        Self {
            fence,
            placeholders: placeholders.collect(),
        }
    }

    /// The first placeholder whose text is free, if there is one.
    fn free(&self) -> Option<Placeholder> {
        self.placeholders.iter().copied().find(|p| p.is_free())
    }

    /// Whether a character of the fence stands nowhere else on this side but in literals.
    fn is_certain(&self) -> bool {
        let only_literal = |c: &char| !self.placeholders.iter().any(|p| p.may_hold(*c));
        self.fence.iter().any(only_literal)
    }
}

/// Judges one `{device}` by its sides.
fn set_off(left: &Side, right: &Side) -> Result<(), TemplateFault> {
    for side in [left, right] {
        if let Some(nearest) = side.placeholders.first()
            && side.fence.is_empty()
        {
            return Err(TemplateFault::RunsInto {
                neighbour: nearest.word(),
            });
        }
    }
    let (Some(nearest_left), Some(nearest_right)) =
        (left.placeholders.first(), right.placeholders.first())
    else {
        return Ok(());
    };
    let both_free = left.free().zip(right.free());
    if both_free.is_none() && (left.is_certain() || right.is_certain()) {
        return Ok(());
    }
    let (left, right) = both_free.unwrap_or((*nearest_left, *nearest_right));
    Err(TemplateFault::BothSides {
        left: left.word(),
        right: right.word(),
    })
}
