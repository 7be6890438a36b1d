//! What fuzz targets call: from bytes to updates of the model, the way that both sources go.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kube::core::WatchEvent;
use model::{Node, Update};
use serde::de::DeserializeOwned;

use crate::api::list;
use crate::convert::{self, Converted, Converter, NodeRead, Proxied};
use crate::directory::files::Files;
use crate::lenient::Lenient;
use crate::slim::{self, ApiObject, Item};
use crate::{Problem, Reporter};

/// A kind of object of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Service.
    Service,
    /// An endpoint slice.
    EndpointSlice,
    /// A ServiceCIDR.
    ServiceCidr,
    /// A Node.
    Node,
}

/// What became of one object.
#[derive(Debug)]
pub struct Read {
    /// What it means, if anything.
    pub update: Option<Update>,
    /// The same of a Node.
    pub node: Option<Node>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Kind {
    /// Reads what the API server answers to the request for a list.
    ///
    /// # Errors
    /// The list as a whole cannot be decoded.
    pub fn list(self, json: &[u8]) -> serde_json::Result<Vec<Read>> {
        match self {
            Self::Service => read_list(json, proxied::<slim::Service>),
            Self::EndpointSlice => read_list(json, proxied::<slim::EndpointSlice>),
            Self::ServiceCidr => read_list(json, proxied::<slim::ServiceCidr>),
            Self::Node => read_list(json, node),
        }
    }

    /// Reads a line of a watch.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub fn event(self, json: &[u8]) -> serde_json::Result<Option<Read>> {
        match self {
            Self::Service => event(json, proxied::<slim::Service>),
            Self::EndpointSlice => event(json, proxied::<slim::EndpointSlice>),
            Self::ServiceCidr => event(json, proxied::<slim::ServiceCidr>),
            Self::Node => event(json, node),
        }
    }
}

fn read_list<T: Object>(json: &[u8], read: impl Fn(&Lenient<T>) -> Read) -> serde_json::Result<Vec<Read>> {
    let mut all = Vec::new();
    list::decode(json, |object| {
        all.push(read(&object));
        true
    })?;
    Ok(all)
}

fn event<T: Object>(json: &[u8], read: impl Fn(&Lenient<T>) -> Read) -> serde_json::Result<Option<Read>> {
    Ok(match serde_json::from_slice(json)? {
        WatchEvent::Added(Item::<T> { object, .. }) => Some(read(&object)),
        WatchEvent::Modified(item) | WatchEvent::Deleted(item) => Some(read(&item.object)),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    })
}

/// What kube can list.
trait Object: ApiObject + Clone + DeserializeOwned {}
impl<T: ApiObject + Clone + DeserializeOwned> Object for T {}

fn proxied<T: Proxied>(raw: &Lenient<T>) -> Read {
    let Converted { update, problems, .. } = T::convert(&mut Converter::new("node".into()), raw);
    Read { update, node: None, problems }
}

fn node(raw: &Lenient<slim::Node>) -> Read {
    let NodeRead { node, problems, .. } = convert::node(raw);
    Read { update: None, node, problems }
}

/// A manifest directory.
#[derive(Debug)]
pub struct Directory(Files);

impl Directory {
    /// One of which nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self(Files::new(path, Arc::from("node"), Reporter::new(|_| {})))
    }

    /// Reads it; returns all objects that there are then.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn read(&mut self) -> io::Result<Vec<Update>> {
        self.0.read()?;
        Ok(self.0.updates())
    }
}
