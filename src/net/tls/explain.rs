//! Puts errors of rustls into words for the person who runs the client.

use std::io;

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible,
    pki_types::UnixTime,
};

/// Puts an error of rustls, wrapped by tokio-rustls, into words.
pub(crate) fn explain(error: &io::Error) -> Option<String> {
    Some(match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(error) => format!(
            "verification of the server's certificate failed: {}",
            certificate(error)
        ),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => "the server does not speak TLS".into(),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => UNACCEPTABLE_VERSION.into(),
        Error::AlertReceived(description) => alert(*description),
        error => error.to_string(),
    })
}

const UNACCEPTABLE_VERSION: &str = "the server offers no acceptable TLS protocol version";

/// The meaning of the server's alert for a client (RFC 8446, section 6.2).
fn alert(description: AlertDescription) -> String {
    use AlertDescription::*;
    match description {
        ProtocolVersion => UNACCEPTABLE_VERSION.into(),
        HandshakeFailure => {
            "the server accepts none of the cipher suites offered, or wants a client certificate"
                .into()
        }
        NoApplicationProtocol => "the server accepts none of the protocols offered by alpn".into(),
        UnrecognisedName => "the server does not know the name it was asked for".into(),
        CertificateRequired => "the server wants a client certificate".into(),
        BadCertificate
        | UnsupportedCertificate
        | CertificateRevoked
        | CertificateExpired
        | CertificateUnknown
        | UnknownCA
        | AccessDenied => format!("the server rejected the client's certificate ({description:?})"),
        _ => format!("the server gave up ({description:?})"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError::*;
    match error {
        ExpiredContext { not_after, .. } => format!("it expired on {}", date(not_after)),
        NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", date(not_before))
        }
        NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            match presented.as_slice() {
                [] => format!("it is not valid for name '{expected}', it has no subjectAltName"),
                names => {
                    let names: Vec<_> = names.iter().map(|name| bare(name)).collect();
                    let names = names.join(", ");
                    format!("it is not valid for name '{expected}', only for {names}")
                }
            }
        }
        UnknownIssuer => "unknown issuer".into(),
        BadSignature => {
            "it is not signed with the key of its issuer; is that an older or newer CA of the same name?"
                .into()
        }
        InvalidPurposeContext { .. } => "it was not issued for servers".into(),
        Other(error) => match error.0.downcast_ref() {
            // The one name that webpki gives to a frequent mistake of private set-ups.
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it is a CA certificate, which may issue a server's certificate but not be one"
                    .into()
            }
            _ => error.0.to_string(),
        },
        error => error.to_string(),
    }
}

/// A name of a certificate without the type that rustls puts around it.
fn bare(name: &str) -> &str {
    name.trim_start_matches("DnsName(\"")
        .trim_start_matches("IpAddress(")
        .trim_end_matches(['"', ')'])
}

/// A day, as year-month-day.
fn date(time: &UnixTime) -> String {
    // Years are counted from March here, so that the leap day is a year's last day. 400 years have 146097 days.
    let days = time.as_secs() / 86400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            assert_eq!(date(&time), expected);
        }
    }
}
