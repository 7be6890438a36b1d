//! What can go wrong between us and the API server, in words.

use std::time::Duration;

use kube::core::Status;

use crate::client::root_cause;
use crate::requests::TooLarge;
use crate::slim::ApiObject;

/// A request that the API server did not answer as hoped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} {resource} at {server}: {reason}")]
pub(super) struct RequestError {
    server: String,
    verb: &'static str,
    resource: &'static str,
    reason: String,
}

impl RequestError {
    fn new<T: ApiObject>(server: &str, verb: &'static str, error: &kube::Error) -> Self {
        let reason = match error {
            kube::Error::Api(status) => refusal::<T>(status),
            kube::Error::SerdeError(error) => {
                format!("the answer is not what an API server sends ({error}): check the address of the server")
            }
            kube::Error::Auth(error) => format!("the credentials cannot be used: {}", root_cause(error)),
            error => match root_cause(error) {
                cause if cause == TooLarge.to_string() => {
                    format!("{cause}, and no larger one is taken in: see who makes so many objects, or such large ones")
                }
                // rustls, about a server it does not trust.
                cause if cause.contains("certificate") => {
                    format!("{cause}: check certificate-authority and the address of the server in the kubeconfig")
                }
                cause => format!("{cause}: check that the server runs and can be reached from this node"),
            },
        };
        Self { server: server.to_owned(), verb, resource: T::PLURAL, reason }
    }

    fn silent<T: ApiObject>(server: &str, verb: &'static str, patience: Duration) -> Self {
        let reason = format!("no answer within {} s: check that the server is not overloaded", patience.as_secs());
        Self::other::<T>(server, verb, reason)
    }

    fn other<T: ApiObject>(server: &str, verb: &'static str, reason: String) -> Self {
        Self { server: server.to_owned(), verb, resource: T::PLURAL, reason }
    }
}

/// Why a list or watch did not go on.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no list, or not all of it.
    List(kube::Error),
    /// There is no watch.
    WatchStart(kube::Error),
    /// The watch broke off.
    Watch(kube::Error),
    /// The server does not go on with the watch.
    Refused(Box<Status>),
    /// It is not said which version an object or a list is.
    NoVersion,
    /// The server did not answer a list in time, or did not go on with it.
    Silent(Duration),
    /// The server did not begin with a watch in time.
    NoWatch(Duration),
    /// The watch ended before it was to.
    Ended,
}

impl Failure {
    /// Whether a new list is needed. Otherwise the watch resumes where it was.
    ///
    /// That the place we are at is refused may come as an event or with the response, and the version may be one the server has
    /// never seen, after a restore from backup: it would be refused for ever.
    pub(super) fn lost_place(&self) -> bool {
        match self {
            Self::List(_) | Self::Silent(_) | Self::Refused(_) | Self::NoVersion => true,
            Self::WatchStart(kube::Error::Api(status)) => !matches!(status.code, 401 | 403 | 429 | 500..=503),
            // An event that could not be decoded is lost: only a list can make up for it.
            Self::Watch(error) => matches!(error, kube::Error::SerdeError(_)),
            Self::WatchStart(_) | Self::NoWatch(_) | Self::Ended => false,
        }
    }

    /// Whether the server does not know the resource at all.
    pub(super) fn is_not_found(&self) -> bool {
        let (Self::List(error) | Self::WatchStart(error)) = self else { return false };
        matches!(error, kube::Error::Api(status) if status.code == NOT_FOUND)
    }

    /// What to tell the operator; `None` for what happens in any healthy cluster: servers close watches and forget old
    /// versions.
    pub(super) fn worth_a_warning<T: ApiObject>(&self, server: &str) -> Option<RequestError> {
        match self {
            Self::List(error) => Some(RequestError::new::<T>(server, "list", error)),
            Self::WatchStart(error) if !is_expired(error) => Some(RequestError::new::<T>(server, "watch", error)),
            Self::Watch(error @ kube::Error::SerdeError(_)) => Some(RequestError::new::<T>(server, "watch", error)),
            Self::Refused(status) if status.code != EXPIRED => {
                Some(RequestError::other::<T>(server, "watch", refusal::<T>(status)))
            }
            Self::NoVersion => {
                let reason = "the answer has no metadata.resourceVersion, or an object in it has none".to_owned();
                Some(RequestError::other::<T>(server, "watch", reason))
            }
            Self::Silent(patience) => Some(RequestError::silent::<T>(server, "list", *patience)),
            Self::NoWatch(patience) => Some(RequestError::silent::<T>(server, "watch", *patience)),
            Self::WatchStart(_) | Self::Watch(_) | Self::Refused(_) | Self::Ended => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List(error) | Self::WatchStart(error) | Self::Watch(error) => f.write_str(&root_cause(error)),
            Self::Refused(status) => f.write_str(&status.message),
            Self::NoVersion => f.write_str("no resourceVersion"),
            Self::Silent(_) | Self::NoWatch(_) => f.write_str("no answer"),
            Self::Ended => f.write_str("end of stream"),
        }
    }
}

/// HTTP 410, Gone: the server no longer knows what happened since the version we are at.
const EXPIRED: u16 = 410;

/// HTTP 404: the server has no such resource.
const NOT_FOUND: u16 = 404;

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == EXPIRED)
}

fn refusal<T: ApiObject>(status: &Status) -> String {
    let Status { code, message, .. } = status;
    match code {
        401 => format!("the server does not accept our credentials (401, {message}): check the token or certificate"),
        403 => format!(
            "not allowed (403, {message}): give our identity a ClusterRole with apiGroups [{:?}], resources [{}], verbs [list, \
             watch]",
            T::GROUP,
            T::PLURAL,
        ),
        404 => format!("the server does not have this resource (404, {message}): check its version and address"),
        _ => format!("the server answered {code}, {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::{EndpointSlice, Node, Service};

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Status { code, message: "because".into(), ..Status::default() }.boxed())
    }

    #[test]
    fn refusals_say_what_to_do() {
        let text = |error: RequestError| error.to_string();
        assert_eq!(
            text(RequestError::new::<EndpointSlice>("https://a:1", "watch", &api(403))),
            "cannot watch endpointslices at https://a:1: not allowed (403, because): give our identity a ClusterRole with \
             apiGroups [\"discovery.k8s.io\"], resources [endpointslices], verbs [list, watch]"
        );
        let forbidden = text(RequestError::new::<Node>("https://a:1", "list", &api(403)));
        assert!(forbidden.ends_with("apiGroups [\"\"], resources [nodes], verbs [list, watch]"), "{forbidden}");
        assert!(text(RequestError::new::<Service>("s", "list", &api(401))).contains("check the token or certificate"));
        assert!(text(RequestError::new::<Service>("s", "list", &api(500))).contains("answered 500, because"));
    }

    #[test]
    fn what_loses_the_place_and_what_is_routine() {
        let status = |code| Status { code, ..Status::default() }.boxed();
        let broken = || kube::Error::ReadEvents(std::io::Error::other("reset"));
        let garbage = || kube::Error::SerdeError(serde_json::from_str::<Status>("<html>").unwrap_err());
        for (failure, lost, warned) in [
            (Failure::Refused(status(410)), true, false),
            (Failure::Refused(status(504)), true, true),
            (Failure::WatchStart(api(410)), true, false),
            (Failure::WatchStart(api(400)), true, true),
            (Failure::WatchStart(api(403)), false, true),
            (Failure::WatchStart(api(503)), false, true),
            (Failure::WatchStart(broken()), false, true),
            (Failure::Watch(broken()), false, false),
            (Failure::Watch(garbage()), true, true),
            (Failure::Ended, false, false),
            (Failure::NoWatch(Duration::ZERO), false, true),
            (Failure::List(api(500)), true, true),
            (Failure::NoVersion, true, true),
        ] {
            assert_eq!(failure.lost_place(), lost, "{failure:?}");
            assert_eq!(failure.worth_a_warning::<Service>("s").is_some(), warned, "{failure:?}");
        }
    }
}
