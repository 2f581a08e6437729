//! Metrics as tables: [`metrics!`] makes a structure of counters, and the metric families that show them, out of one list.
//!
//! A [`Metric`] says which family a field is a part of and how to read it. `admin` walks over the metrics of all structures
//! for `GET /metrics` and for the table of the documentation. The fields themselves stay plain [`Cell`]s, which their threads
//! add to without knowing of families.

use crate::counters::{Cell, Histogram};

/// The type of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
    /// A distribution of durations.
    Histogram,
}

/// How the values of several shards become the samples of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Across {
    /// One sample: their sum.
    Sum,
    /// One sample: the largest of them.
    Largest,
    /// A sample for each, with the label `shard`.
    Each,
}

/// The values of a label, by the index of a cell.
#[derive(Clone, Copy)]
pub enum LabelOf {
    /// From a table.
    Named(fn(usize) -> &'static str),
    /// The index itself.
    Number,
}

/// A metric family, and the samples of it that one field gives.
#[derive(Clone, Copy)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The help text; the doc comment of the field where it is not given.
    pub help: Option<&'static str>,
    /// A label and its value, the same for all samples of the field.
    pub with: Option<(&'static str, &'static str)>,
    /// A label whose value differs from cell to cell of the field.
    pub by: Option<(&'static str, LabelOf)>,
    /// What several shards make of it.
    pub across: Across,
    /// The field counts nanoseconds, and the samples are seconds.
    pub seconds: bool,
}

/// A family that only rises.
pub const fn counter(name: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help: None, with: None, by: None, across: Across::Sum, seconds: false }
}

/// A family that rises and falls.
pub const fn gauge(name: &'static str) -> Family {
    Family { kind: Kind::Gauge, ..counter(name) }
}

/// A family of durations in seconds.
pub const fn histogram(name: &'static str) -> Family {
    Family { kind: Kind::Histogram, ..counter(name) }
}

impl Family {
    /// Another help text than the doc comment of the field. Of a family that several fields are part of, the first one's
    /// holds.
    pub const fn help(self, text: &'static str) -> Self {
        Self { help: Some(text), ..self }
    }

    /// Gives the samples of the field this label.
    pub const fn with(self, label: &'static str, value: &'static str) -> Self {
        Self { with: Some((label, value)), ..self }
    }

    /// Gives each cell of the field the value of this label that stands in a table at its index.
    pub const fn by(self, label: &'static str, value: fn(usize) -> &'static str) -> Self {
        Self { by: Some((label, LabelOf::Named(value))), ..self }
    }

    /// Gives each cell of the field its index as the value of this label.
    pub const fn by_number(self, label: &'static str) -> Self {
        Self { by: Some((label, LabelOf::Number)), ..self }
    }

    /// A sample for each shard, with the label `shard`.
    pub const fn each_shard(self) -> Self {
        Self { across: Across::Each, ..self }
    }

    /// The largest of the shards' values instead of their sum.
    pub const fn largest(self) -> Self {
        Self { across: Across::Largest, ..self }
    }

    /// The field counts nanoseconds: shows them as seconds.
    pub const fn seconds(self) -> Self {
        Self { seconds: true, ..self }
    }
}

/// A count with the labels that tell it from others of its family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Labelled {
    /// Names and values. The values come from tables, so that there are not too many.
    pub labels: Vec<(&'static str, String)>,
    /// How many.
    pub count: u64,
}

/// What a field holds at the moment.
pub enum Reading<'a> {
    /// Numbers that a thread writes.
    Cells(&'a [Cell]),
    /// A distribution.
    Histogram(&'a Histogram),
    /// A number that was found out for this scrape; none where it could not be.
    Found(Option<f64>),
    /// Counts that are there from the first of their kind on, each with labels of its own.
    Labelled(&'a [Labelled]),
    /// 1, with labels that say everything.
    Labels(&'a [(&'static str, &'static str)]),
}

impl<'a> From<&'a Cell> for Reading<'a> {
    fn from(cell: &'a Cell) -> Self {
        Self::Cells(std::slice::from_ref(cell))
    }
}

impl<'a, const N: usize> From<&'a [Cell; N]> for Reading<'a> {
    fn from(cells: &'a [Cell; N]) -> Self {
        Self::Cells(cells)
    }
}

impl<'a> From<&'a Vec<Cell>> for Reading<'a> {
    fn from(cells: &'a Vec<Cell>) -> Self {
        Self::Cells(cells)
    }
}

impl<'a> From<&'a Histogram> for Reading<'a> {
    fn from(histogram: &'a Histogram) -> Self {
        Self::Histogram(histogram)
    }
}

impl<'a> From<&'a Vec<Labelled>> for Reading<'a> {
    fn from(all: &'a Vec<Labelled>) -> Self {
        Self::Labelled(all)
    }
}

impl From<&Option<f64>> for Reading<'_> {
    fn from(found: &Option<f64>) -> Self {
        Self::Found(*found)
    }
}

impl<'a, const N: usize> From<&'a [(&'static str, &'static str); N]> for Reading<'a> {
    fn from(labels: &'a [(&'static str, &'static str); N]) -> Self {
        Self::Labels(labels)
    }
}

/// Reads a field of `C`.
pub type Read<C> = fn(&C) -> Reading<'_>;

/// One field of `C` as a part of a family.
pub struct Metric<C> {
    /// The family.
    pub family: Family,
    /// The family's help text.
    pub help: &'static str,
    /// Reads the field.
    pub read: Read<C>,
}

impl<C> Metric<C> {
    /// The metrics of one field, whose doc comment is `about`.
    pub fn of(about: &'static str, families: &[(Family, Read<C>)]) -> impl Iterator<Item = Self> {
        families.iter().map(|(family, read)| Self {
            family: *family,
            help: family.help.unwrap_or(about.trim_ascii()),
            read: *read,
        })
    }
}

/// A structure of counters that knows its metrics.
pub trait Metrics: Sized {
    /// Every family that a field is a part of, in the order of the fields.
    fn metrics() -> Vec<Metric<Self>>;
}

/// Makes a structure of counters and its metrics. An entry is
///
/// ```text
/// /// What it counts: the help text.
/// field: Type => family, family;
/// ```
///
/// where a family is [`counter(name)`](counter), [`gauge(name)`](gauge) or [`histogram(name)`](histogram), with labels such as
/// `.by("reason", |index| …)`. A field without a family is for other code to read. Families of one name are one family.
#[macro_export]
macro_rules! metrics {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Counters:ident {
            $($(#[doc = $about:literal])+ $field:ident: $type:ty $(=> $($family:expr),+)?;)*
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $Counters {
            $($(#[doc = $about])+ pub $field: $type,)*
        }

        impl $crate::metric::Metrics for $Counters {
            fn metrics() -> Vec<$crate::metric::Metric<Self>> {
                use $crate::metric::{Metric, Read, Reading};
                let fields: &[(&'static str, &[($crate::metric::Family, Read<Self>)])] = &[$((
                    concat!($($about),+),
                    &[$($(($family, |counters| Reading::from(&counters.$field))),+)?],
                )),*];
                fields.iter().flat_map(|(about, families)| Metric::of(about, families)).collect()
            }
        }
    };
}
pub use metrics;
