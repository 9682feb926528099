//! TOML as written → validated [`model::Config`].
//!
//! A file passes through in this order: `read` opens the tree and knows where each value stands, `keys` says
//! which keys there are, `agent` and `service` turn sections into the model, `conflict` compares what stands
//! in different places. All of them go on after a fault, so that one run reports every fault of a file.
//! [`resolve()`] is the only part that asks the network, and is called apart for that reason.
//!
//! Whether a VIP or a member is an address of this host is not decided here: that needs netlink, which is
//! the datapath's.

use std::{fs, path::Path, str};

use toml::de::DeTable;

use crate::model;

mod address;
mod agent;
mod conflict;
mod error;
mod keys;
mod login;
mod read;
mod resolve;
mod service;
#[cfg(test)]
mod tests;

pub use error::{Error, Fault, Place};
pub use resolve::{MemberAddresses, Resolved, resolve};

use error::Complaint;
use read::{Document, Section};

/// Reads and validates a configuration file, and reads the password files that it names.
///
/// # Errors
/// Every fault that was found, in the order of the file.
pub fn load(path: &Path) -> Result<model::Config, Error> {
    let bytes = fs::read(path).map_err(|error| {
        Error::from(Fault::at_path(
            path,
            Complaint::new(
                format!("cannot be read ({error})"),
                "give the path of a readable configuration file with --config",
            ),
        ))
    })?;
    match str::from_utf8(&bytes) {
        Ok(text) => parse(path, text),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let complaint = Complaint::new("TOML is UTF-8, and this byte is not", "save the file as UTF-8");
            Err(Fault::new(Place::after(path, &valid), String::new(), complaint).into())
        }
    }
}

/// Validates the text of a configuration file, and reads the password files that it names. `path` is for
/// messages, and for password files with a relative path: they stand beside the configuration file.
///
/// # Errors
/// Every fault that was found, in the order of the file. A syntax error stands alone.
pub fn parse(path: &Path, text: &str) -> Result<model::Config, Error> {
    let document = Document::new(path, text);
    let tree = DeTable::parse(text).map_err(|error| document.syntax_error(&error))?;
    let root = Section::root(&document, tree.get_ref());

    let (agent, datapath) = agent::read(&root);
    let drafts: Vec<_> = root.list("service").into_iter().map(service::read).collect();
    if drafts.is_empty() && !root.has("service") {
        root.missing("service");
    }
    conflict::check(&drafts);

    document.finish()?;
    Ok(model::Config { agent, datapath, services: drafts.into_iter().map(|draft| draft.service).collect() })
}
