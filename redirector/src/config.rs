//! TOML as written → validated [`model::Config`].
//!
//! A file passes through in this order: `read` opens the tree and knows where each value stands, `keys` says
//! which keys there are, `agent` and `service` turn sections into the model, `conflict` compares what stands
//! in different places. All of them go on after a fault, so that one run reports every fault of a file.
//! [`resolve()`] is the only part that asks the network, and is called apart for that reason.
//!
//! Whether a configuration fits this host (a VIP that is one of its addresses, an uplink that it does not have)
//! needs netlink, which is the datapath's; [`Loaded::misfits()`] words what was found there.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use crate::model;

mod address;
mod agent;
mod application;
mod check;
mod conflict;
mod detect;
mod error;
mod files;
mod fixed;
mod hook;
mod host;
mod keys;
mod login;
mod read;
mod resolve;
mod rest;
mod service;
mod shards;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod traffic;
mod url;
mod user;
mod witness;

pub use error::{Error, Fault, Place};
pub use host::Misfit;
pub use resolve::{Answers, MemberAddresses, Resolved, accept, resolve};

use error::Complaint;
use host::Places;
use read::{Document, Section};

/// A valid configuration, and where in its file stands what only the resolver or the host can judge.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: model::Config,
    places: Places,
}

/// Reads and validates a configuration file, and reads the files with passwords, certificates and keys that it names.
/// Credentials are those of this process: systemd tells their directory in the environment.
///
/// # Errors
/// Every fault that was found, in the order of the file.
pub fn load(path: &Path) -> Result<Loaded, Error> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    parse_with(path, &read_text(path)?, credentials)
}

/// Reads `[agent]` and `[datapath]` alone, and no password file: what a host is rid of does not depend on services.
///
/// # Errors
/// Every fault in these two sections; a syntax error anywhere.
pub fn load_sections_of_the_host(path: &Path) -> Result<(model::Agent, model::Datapath), Error> {
    let text = read_text(path)?;
    let document = Document::new(path, &text);
    let tree = DeTable::parse(&text).map_err(|error| document.syntax_error(&error))?;
    let (agent, datapath, _) = agent::read(&Section::root(&document, tree.get_ref()));
    document.finish()?;
    Ok((agent, datapath))
}

/// `[agent]` and `[datapath]` of a file that has neither.
#[must_use]
pub fn defaults_of_the_host() -> (model::Agent, model::Datapath) {
    let document = Document::new(Path::new(""), "");
    let (agent, datapath, _) = agent::read(&Section::root(&document, &toml::de::DeTable::new()));
    (agent, datapath)
}

/// Reads the name of a member (or service) that is not in a file.
///
/// # Errors
/// What is wrong, and what to do.
pub fn member_name(text: &str) -> Result<String, (String, String)> {
    address::name(text).map_err(Complaint::into_words)
}

/// Reads an endpoint that is not in a file.
///
/// # Errors
/// What is wrong, and what to do.
pub fn endpoint(text: &str) -> Result<model::Endpoint, (String, String)> {
    address::endpoint(text).map_err(Complaint::into_words)
}

fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|error| {
        Error::from(Fault::at_path(
            path,
            Complaint::new(
                format!("cannot be read ({error})"),
                "give the path of a readable configuration file with --config",
            ),
        ))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let complaint = Complaint::new("TOML is UTF-8, and this byte is not", "save the file as UTF-8");
        Fault::new(Place::after(path, &valid), String::new(), complaint).into()
    })
}

/// Validates the text of a configuration file, and reads the files that it names. `path` is for messages, and for files
/// with a relative path: they stand beside the configuration file. There are no credentials.
///
/// # Errors
/// Every fault that was found, in the order of the file. A syntax error stands alone.
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Error> {
    parse_with(path, text, None)
}

fn parse_with(path: &Path, text: &str, credentials: Option<PathBuf>) -> Result<Loaded, Error> {
    let document = Document::new(path, text).with_credentials(credentials);
    let tree = DeTable::parse(text).map_err(|error| document.syntax_error(&error))?;
    let root = Section::root(&document, tree.get_ref());

    let (agent, datapath, written) = agent::read(&root);
    let drafts: Vec<_> = root.list("service").into_iter().map(service::read).collect();
    if drafts.is_empty() && !root.has("service") {
        root.missing("service");
    }
    conflict::check(&drafts);

    document.finish()?;
    let places = Places::new(&document, &root, &written, &drafts);
    let services = drafts.into_iter().map(|draft| draft.service).collect();
    Ok(Loaded { config: model::Config { agent, datapath, services }, places })
}
