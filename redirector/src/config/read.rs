//! Access to the TOML tree that knows where each value stands.
//!
//! A [`Section`] answers `None` both for a key that is absent and for a value that is wrong; the latter has
//! left a fault in the [`Document`]. So a reader may put any stand-in for `None` and go on: with a fault,
//! [`Document::finish`] lets nothing out.

use std::{
    cell::RefCell,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{Complaint, Error, Fault, Place},
    keys::{self, Keys},
};

/// No time of a configuration is longer, so that adding two of them to a clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One file, and the faults found in it so far.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    credentials: Option<PathBuf>,
    faults: RefCell<Vec<(usize, Fault)>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, credentials: None, faults: RefCell::default() }
    }

    /// With the directory of systemd's credentials, if there is one.
    pub(super) fn with_credentials(self, credentials: Option<PathBuf>) -> Self {
        Self { credentials, ..self }
    }

    /// The directory of systemd's credentials.
    pub(super) fn credentials(&self) -> Option<&Path> {
        self.credentials.as_deref()
    }

    /// The file as it was given.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Line and column of a byte offset.
    pub(super) fn place(&self, at: usize) -> Place {
        let end = (0..=at.min(self.text.len())).rev().find(|end| self.text.is_char_boundary(*end));
        Place::after(self.path, &self.text[..end.unwrap_or(0)])
    }

    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> Error {
        let place = self.place(error.span().map_or(0, |span| span.start));
        let cause = error.message().lines().collect::<Vec<_>>().join(", ");
        let complaint = Complaint::new(format!("not valid TOML: {cause}"), "correct the syntax here");
        Fault::new(place, String::new(), complaint).into()
    }

    /// A fault of one place is kept once: `[service.redis]` is compared with each member in turn.
    fn fault(&self, at: usize, subject: &str, complaint: Complaint) {
        let mut faults = self.faults.borrow_mut();
        if faults.iter().all(|(known, fault)| *known != at || !fault.says(&complaint)) {
            faults.push((at, Fault::new(self.place(at), subject.to_owned(), complaint)));
        }
    }

    /// Every fault in the order of the file, if there is one.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let mut faults = self.faults.take();
        faults.sort_by_key(|(at, _)| *at);
        Error::of(faults.into_iter().map(|(_, fault)| fault).collect()).map_or(Ok(()), Err)
    }
}

/// A value and the byte offset where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

impl<T> Written<T> {
    fn try_map<U>(
        self,
        convert: impl FnOnce(T) -> Result<U, Complaint>,
    ) -> Result<Written<U>, (usize, Complaint)> {
        match convert(self.value) {
            Ok(value) => Ok(Written { value, at: self.at }),
            Err(complaint) => Err((self.at, complaint)),
        }
    }
}

/// One table of the file, or the absence of an optional one.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    keys: &'static Keys,
    table: Option<&'a DeTable<'a>>,
    at: usize,
    subject: String,
}

impl<'a> Section<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        let root = Self { document, keys: &keys::ROOT, table: Some(table), at: 0, subject: String::new() };
        root.check_keys();
        root
    }

    /// The table `key`, empty if it is not there.
    pub(super) fn sub(&self, key: &str) -> Self {
        let mut section = Self {
            document: self.document,
            keys: self.keys_of(key),
            table: None,
            at: self.at,
            subject: self.subject.clone(),
        };
        if let Some(value) = self.get(key) {
            section.at = value.span().start;
            section.table = value.get_ref().as_table();
            if section.table.is_none() {
                self.wrong_type(key, value, "a table");
            }
            section.check_keys();
        }
        section
    }

    /// The tables of the array `key`, none if it is not there. Their subject is their `name`, or their number.
    pub(super) fn list(&self, key: &str) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array of tables");
            return Vec::new();
        };
        self.not_empty(key, value, array.len());
        let mut sections = Vec::new();
        for (index, element) in array.iter().enumerate() {
            let Some(table) = element.get_ref().as_table() else {
                self.wrong_type(key, element, "an array of tables");
                continue;
            };
            let name = table.get("name").and_then(|name| name.get_ref().as_str());
            let name = name.map_or_else(|| format!("#{}", index + 1), |name| format!("{name:?}"));
            let of = if self.subject.is_empty() { String::new() } else { format!(" of {}", self.subject) };
            let section = Self {
                document: self.document,
                keys: self.keys_of(key),
                table: Some(table),
                at: element.span().start,
                subject: format!("{key} {name}{of}"),
            };
            section.check_keys();
            sections.push(section);
        }
        sections
    }

    /// Whether `key` is written at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Every key that is written, and where.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, usize)> {
        self.table
            .into_iter()
            .flat_map(|table| table.keys())
            .map(|key| (key.get_ref().as_ref(), key.span().start))
    }

    /// Byte offset of the value of `key`, if it is written.
    pub(super) fn place_of(&self, key: &str) -> Option<usize> {
        self.get(key).map(|value| value.span().start)
    }

    /// `service "orders"`; empty outside services.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// Byte offset where it stands.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn document(&self) -> &'a Document<'a> {
        self.document
    }

    pub(super) fn fault(&self, at: usize, complaint: Complaint) {
        self.document.fault(at, &self.subject, complaint);
    }

    /// Reports that `key` must be given and is not.
    pub(super) fn missing(&self, key: &str) {
        let complaint = Complaint::new(
            format!("`{key}` is missing"),
            format!("add it, for example {}", self.keys.example(key)),
        );
        self.fault(self.at, complaint);
    }

    /// As [`text`](Self::text); its absence is a fault.
    pub(super) fn required<T>(
        &self,
        key: &str,
        convert: impl FnOnce(&'a str) -> Result<T, Complaint>,
    ) -> Option<Written<T>> {
        if !self.has(key) {
            self.missing(key);
        }
        self.text(key, convert)
    }

    /// A string that `convert` makes something of.
    pub(super) fn text<T>(
        &self,
        key: &str,
        convert: impl FnOnce(&'a str) -> Result<T, Complaint>,
    ) -> Option<Written<T>> {
        let value = self.get(key)?;
        let text = self.string(key, value, "a string")?;
        self.keep(text.try_map(convert))
    }

    /// An array of strings that `convert` makes something of; at least one, none twice.
    pub(super) fn texts<T: PartialEq>(
        &self,
        key: &str,
        convert: impl FnMut(&'a str) -> Result<T, Complaint>,
    ) -> Option<Vec<Written<T>>> {
        let value = self.get(key)?;
        if let Some(array) = value.get_ref().as_array() {
            self.not_empty(key, value, array.len());
        }
        self.any_texts(key, convert)
    }

    /// The same, and it may be empty.
    pub(super) fn any_texts<T: PartialEq>(
        &self,
        key: &str,
        mut convert: impl FnMut(&'a str) -> Result<T, Complaint>,
    ) -> Option<Vec<Written<T>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array of strings");
            return None;
        };
        let mut found: Vec<Written<T>> = Vec::new();
        for element in array.iter() {
            let Some(text) = self.string(key, element, "an array of strings") else { continue };
            let Some(new) = self.keep(text.try_map(&mut convert)) else { continue };
            if let Some(old) = found.iter().find(|old| old.value == new.value) {
                let place = self.document.place(old.at);
                let cause = format!("`{key}` names {:?} twice, first at {place}", text.value);
                self.fault(new.at, Complaint::new(cause, "remove one of the two"));
            } else {
                found.push(new);
            }
        }
        Some(found)
    }

    /// An array of strings as they are; at least one.
    pub(super) fn words(&self, key: &str) -> Option<Vec<Written<&'a str>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array of strings");
            return None;
        };
        self.not_empty(key, value, array.len());
        Some(array.iter().filter_map(|element| self.string(key, element, "an array of strings")).collect())
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        found
    }

    /// One of a few words. `later` are the words of the contract that are not built yet.
    pub(super) fn word<T: Copy>(&self, key: &str, built: &[(&str, T)], later: &[&str]) -> Option<T> {
        Some(self.text(key, |text| word(key, text, built, later))?.value)
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u32::try_from(number).ok());
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let cause = format!("`{key}` is {integer}, outside of {} to {}", range.start(), range.end());
        let next = format!("give a number in that range, for example {}", self.keys.example(key));
        self.fault(value.span().start, Complaint::new(cause, next));
        None
    }

    /// A time of at least `shortest`.
    pub(super) fn time(&self, key: &str, shortest: Duration) -> Option<Written<Duration>> {
        let example = self.keys.example(key);
        self.text(key, |text| {
            let time = humantime::parse_duration(text).map_err(|error| {
                let cause = format!("`{key}` is {text:?}, which is not a time ({error})");
                Complaint::new(cause, format!("write number and unit, for example {example}"))
            })?;
            if (shortest..=LONGEST).contains(&time) {
                return Ok(time);
            }
            let [shortest, longest] = [shortest, LONGEST].map(humantime::format_duration);
            let cause = format!("`{key}` is {text:?}, outside of {shortest} to {longest}");
            Err(Complaint::new(cause, format!("give a time in that range, for example {example}")))
        })
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn keys_of(&self, key: &str) -> &'static Keys {
        self.keys.section(key).expect("callers ask for sections of the table in `keys`")
    }

    fn check_keys(&self) {
        for (key, _) in self.table.into_iter().flatten() {
            if let Some(complaint) = self.keys.complaint(key.get_ref()) {
                self.fault(key.span().start, complaint);
            }
        }
    }

    fn not_empty(&self, key: &str, value: &Spanned<DeValue<'a>>, length: usize) {
        if length == 0 {
            let next = format!("give at least one, for example {}", self.keys.example(key));
            self.fault(value.span().start, Complaint::new(format!("`{key}` is empty"), next));
        }
    }

    fn string(&self, key: &str, value: &'a Spanned<DeValue<'a>>, wanted: &str) -> Option<Written<&'a str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, wanted);
        }
        Some(Written { value: text?, at: value.span().start })
    }

    fn keep<T>(&self, result: Result<Written<T>, (usize, Complaint)>) -> Option<Written<T>> {
        result.map_err(|(at, complaint)| self.fault(at, complaint)).ok()
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'a>>, wanted: &str) {
        let found = shown(value.get_ref());
        let complaint = Complaint::new(
            format!("`{key}` must be {wanted}, but here is {found}"),
            format!("write it like {}", self.keys.example(key)),
        );
        self.fault(value.span().start, complaint);
    }
}

/// A value of the wrong type in a message. A string is not shown: it may be a password in the wrong place.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(integer) => format!("the number {integer}"),
        DeValue::Float(float) => format!("the number {float}"),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The meaning of one of a few words.
pub(super) fn word<T: Copy>(
    key: &str,
    text: &str,
    built: &[(&str, T)],
    later: &[&str],
) -> Result<T, Complaint> {
    if let Some((_, meaning)) = built.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let words: Vec<_> = built.iter().map(|(word, _)| format!("{word:?}")).collect();
    let next = match words.as_slice() {
        [several @ .., last] if !several.is_empty() => format!("use {} or {last}", several.join(", ")),
        _ => format!("use {}", words.concat()),
    };
    Err(if later.contains(&text) {
        Complaint::new(format!("`{key}` {text:?} is part of the contract but not built yet"), next)
    } else {
        Complaint::new(format!("`{key}` does not know {text:?}"), next)
    })
}
