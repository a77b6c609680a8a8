//! JWTs.
use super::device::DeviceId;
use super::record::Print;
/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {}
/// Keys.
#[derive(Clone, Debug)]
pub struct Keys {}
/// Claims.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Who.
    pub device: DeviceId,
    /// Until.
    pub not_after: i64,
    /// By.
    pub key: Print,
}
/// Bad.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Bad {
    /// Away.
    #[error("the keys are away")]
    KeysAway,
}
impl Bad {
    /// Label.
    pub fn label(&self) -> &'static str {
        "token_keys_away"
    }
}
/// Looks like one.
pub fn is_meant(text: &[u8]) -> bool {
    text.starts_with(b"eyJ")
}
/// Verifies.
///
/// # Errors
/// Bad.
pub fn verify(_text: &[u8], _settings: &Settings, _keys: &Keys, _now: i64) -> Result<Claims, Bad> {
    Err(Bad::KeysAway)
}
