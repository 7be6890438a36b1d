//! What can go wrong between us and the API server, in words.

use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;

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
    Watcher(watcher::Error),
    /// The server did not answer a list in time.
    Silent(Duration),
    /// kube's stream ended, which it promises not to.
    Ended,
}

impl Failure {
    /// Whether a new list is needed. Otherwise the watch resumes where it was.
    ///
    /// kube's watcher starts over by itself only for an event with status 410. Any other refusal of the place we are at
    /// (the status may come with the response instead, or the version may be one the server has never seen, after a
    /// restore from backup) would be repeated for ever.
    pub(super) fn lost_place(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Ended => true,
            Self::Watcher(error) => match error {
                watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
                watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
                    !matches!(status.code, 401 | 403 | 429 | 500..=503)
                }
                // An event that could not be decoded is lost: only a list can make up for it.
                watcher::Error::WatchFailed(error) => matches!(error, kube::Error::SerdeError(_)),
                watcher::Error::InitialListFailed(_) | watcher::Error::WatchStartFailed(_) => false,
            },
        }
    }

    /// Whether the server does not know the resource at all.
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            Self::Watcher(
                watcher::Error::InitialListFailed(kube::Error::Api(status))
                | watcher::Error::WatchStartFailed(kube::Error::Api(status)),
            ) => status.code == NOT_FOUND,
            Self::Watcher(_) | Self::Silent(_) | Self::Ended => false,
        }
    }

    /// What to tell the operator; `None` for what happens in any healthy cluster: servers close watches and forget old
    /// versions.
    pub(super) fn worth_a_warning<T: ApiObject>(&self, server: &str) -> Option<RequestError> {
        match self {
            Self::Watcher(watcher::Error::InitialListFailed(error)) => {
                Some(RequestError::new::<T>(server, "list", error))
            }
            Self::Watcher(watcher::Error::WatchStartFailed(error)) if !is_expired(error) => {
                Some(RequestError::new::<T>(server, "watch", error))
            }
            Self::Watcher(watcher::Error::WatchError(status)) if status.code != EXPIRED => {
                Some(RequestError::other::<T>(server, "watch", refusal::<T>(status)))
            }
            Self::Watcher(watcher::Error::NoResourceVersion) => {
                let reason = "an object came without metadata.resourceVersion".to_owned();
                Some(RequestError::other::<T>(server, "watch", reason))
            }
            Self::Silent(patience) => Some(RequestError::silent::<T>(server, "list", *patience)),
            Self::Watcher(_) | Self::Ended => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Watcher(error) => f.write_str(&root_cause(error)),
            Self::Silent(_) => f.write_str("no answer"),
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
        use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
        let status = |code| Status { code, ..Status::default() }.boxed();
        let broken = || kube::Error::ReadEvents(std::io::Error::other("reset"));
        for (error, lost, warned) in [
            (WatchError(status(410)), true, false),
            (WatchError(status(504)), true, true),
            (WatchStartFailed(api(410)), true, false),
            (WatchStartFailed(api(400)), true, true),
            (WatchStartFailed(api(403)), false, true),
            (WatchStartFailed(api(503)), false, true),
            (WatchStartFailed(broken()), false, true),
            (WatchFailed(broken()), false, false),
            (InitialListFailed(api(500)), false, true),
            (NoResourceVersion, true, true),
        ] {
            let failure = Failure::Watcher(error);
            assert_eq!(failure.lost_place(), lost, "{failure:?}");
            assert_eq!(failure.worth_a_warning::<Service>("s").is_some(), warned, "{failure:?}");
        }
    }
}
