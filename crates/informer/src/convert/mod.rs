//! From API objects to the model, field by field.
//!
//! A bad value costs as little as can be: an entry of a list is skipped, a policy gets its default. Only where a whole part
//! has the wrong shape (`spec` is no object, `ports` no list) is the object unreadable, and its last good version stays in
//! use: taking a Service apart because of a mistake would be worse. All of it is reported.

mod fields;
mod hints;
mod node;
mod service;
mod service_cidr;
mod slice;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::{Kind, ServiceName, Update};

pub(crate) use self::fields::Findings;
pub(crate) use self::node::{NodeRead, node};

use self::fields::Unreadable;
use crate::Problem;
use crate::intern::Pool;
use crate::lenient::Lenient;
use crate::slim::{self, ApiObject, Meta, Scope as _};

/// Converts objects of one source.
#[derive(Debug)]
pub(crate) struct Converter {
    node_name: Arc<str>,
    pool: Pool,
}

/// What became of one object.
#[derive(Debug)]
pub(crate) struct Converted {
    /// The object, for people: `namespace/name`, or its name alone where there are no namespaces.
    pub(crate) object: String,
    /// What it means for the model; nothing if it does not even have a name.
    pub(crate) update: Option<Update>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

/// An object that says who it is.
struct Identified<'a, T> {
    object: &'a T,
    meta: &'a Meta,
    name: ServiceName,
}

/// A kind of object that the model knows.
pub(crate) trait Proxied: ApiObject + Sized {
    /// Its kind in the model.
    const MODEL_KIND: Kind;

    /// Whether there are API servers that do not know this kind, and clusters that do without.
    const OPTIONAL: bool = false;

    /// Reads the whole object.
    fn convert(converter: &mut Converter, raw: &Lenient<Self>) -> Converted;

    /// The update that says that it is gone.
    fn gone(name: ServiceName) -> Update;
}

impl Proxied for slim::Service {
    const MODEL_KIND: Kind = Kind::Service;

    fn convert(converter: &mut Converter, raw: &Lenient<Self>) -> Converted {
        converter.convert(raw, service::service)
    }

    fn gone(name: ServiceName) -> Update {
        Update::ServiceGone(name)
    }
}

impl Proxied for slim::EndpointSlice {
    const MODEL_KIND: Kind = Kind::EndpointSlice;

    fn convert(converter: &mut Converter, raw: &Lenient<Self>) -> Converted {
        converter.convert(raw, slice::slice)
    }

    fn gone(name: ServiceName) -> Update {
        Update::SliceGone(name)
    }
}

impl Proxied for slim::ServiceCidr {
    const MODEL_KIND: Kind = Kind::ServiceCidr;
    const OPTIONAL: bool = true;

    fn convert(converter: &mut Converter, raw: &Lenient<Self>) -> Converted {
        converter.convert(raw, |_, raw, findings| service_cidr::service_cidr(raw, findings))
    }

    fn gone(name: ServiceName) -> Update {
        Update::ServiceCidrGone(name.name)
    }
}

impl Converter {
    /// A converter for the node of this name; with an empty name no endpoint is local.
    pub(crate) fn new(node_name: Arc<str>) -> Self {
        Self { node_name, pool: Pool::default() }
    }

    /// What an object that was deleted means for the model.
    pub(crate) fn gone<T: Proxied>(&mut self, raw: &Lenient<T>) -> Converted {
        self.convert(raw, |_, identified, _| Ok(T::gone(identified.name)))
    }

    fn convert<T: Proxied>(
        &mut self,
        raw: &Lenient<T>,
        read: impl FnOnce(&mut Self, Identified<'_, T>, &mut Findings) -> Result<Update, Unreadable>,
    ) -> Converted {
        let mut findings = Findings::new(T::KIND, "(without a name, ignored)");
        let Ok(identified) = self.identify(raw, &mut findings) else {
            return findings.into_converted(None);
        };
        let name = identified.name.clone();
        findings.name_object(name.to_string());
        let update = read(self, identified, &mut findings).unwrap_or(Update::Unreadable(T::MODEL_KIND, name));
        findings.into_converted(Some(update))
    }

    fn identify<'a, T: ApiObject>(
        &mut self,
        raw: &'a Lenient<T>,
        findings: &mut Findings,
    ) -> Result<Identified<'a, T>, Unreadable> {
        let object = findings.required(raw, "")?;
        let meta = findings.required(object.metadata(), "metadata")?;
        let name = findings.required(&meta.name, "metadata.name")?;
        if name.is_empty() {
            findings.report("metadata.name", "is empty");
            return Err(Unreadable);
        }
        // The API server always gives a namespace; a manifest without one means `default`, as it does for kubectl.
        let namespace = match findings.shape(&meta.namespace, "metadata.namespace")? {
            _ if !T::Scope::NAMESPACED => "",
            Some(namespace) if !namespace.is_empty() => namespace.as_str(),
            _ => "default",
        };
        const IGNORED: &str = "the object is ignored";
        if !findings.is_name(name, "metadata.name", IGNORED)
            || !findings.is_name(namespace, "metadata.namespace", IGNORED)
        {
            return Err(Unreadable);
        }
        let name = ServiceName::new(self.pool.intern(namespace), name.as_str());
        Ok(Identified { object, meta, name })
    }
}
