//! Turns the typed errors of refused requests into error messages for Lua.

use super::results::{Results, push_failure};
use super::stack::Stack;
use crate::driver::Refused;
use crate::session::RequestError;

/// Why a request was refused.
pub(super) enum Refusal {
    /// The program's arguments are to blame: Lua should raise the error.
    Misuse(String),
    /// The session cannot do it now.
    Failure(String),
    /// Too many bytes wait to be sent or acknowledged: the program must wait.
    TooMuch(String),
}

/// The result of a request; or nil, the message and whether it is misuse; or, for `TooMuch`, false and the message.
impl<T: Results> Results for Result<T, Refusal> {
    fn push(&self, to: &Stack) {
        let (message, is_misuse) = match self {
            Ok(value) => return value.push(to),
            Err(Refusal::TooMuch(message)) => {
                to.push_boolean(false);
                return to.push_bytes(message.as_bytes());
            }
            Err(Refusal::Misuse(message)) => (message, true),
            Err(Refusal::Failure(message)) => (message, false),
        };
        push_failure(message, to);
        to.push_boolean(is_misuse);
    }
}

/// Arguments that could not be read.
impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Misuse(message)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Session(error) => error.into(),
            Refused::TooMuch { waiting } => Self::TooMuch(format!(
                "{waiting} bytes wait to be sent or acknowledged already"
            )),
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Encode(_)
            | RequestError::ReasonCode(..)
            | RequestError::SubscriptionIdentifier => Self::Misuse(message),
            _ => Self::Failure(message),
        }
    }
}
