//! Recipes: files that name functions, fields of their calls and what they are grouped by, so that a question such as "which
//! SQL statements, how often, how long" is one word (`pystap sql`). A recipe is nothing but that: it becomes an ordinary session
//! with filters and fields ([`Recipe::filters`], [`Recipe::fields`]), and a sink that groups ([`Grouping`]).

mod callers;
mod catalogue;
mod file;
mod normal;
mod sink;
mod table;
mod tally;

use std::collections::BTreeSet;

use pystap_glob::Glob;

use crate::event::Place;
use crate::field::Field;
use crate::script::Filters;

pub(crate) use catalogue::{Catalogue, RecipeError};
pub(crate) use normal::Normal;
pub(crate) use sink::{Grouping, Options};

/// The field that says who called.
const CALLER: &str = "caller";

/// What stands for the values for which there was no room.
const OTHERS: &str = "(others)";

/// What is asked of calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    /// What it is called: the name of its file.
    pub(crate) name: String,
    /// What it answers, in one line.
    pub(crate) description: String,
    /// The fields by whose values calls are grouped, at least one.
    pub(crate) group_by: Vec<String>,
    /// The field that names the request of a call.
    pub(crate) request: Option<String>,
    /// The field that is the status of a call: from 500 on it is an error.
    pub(crate) status: Option<String>,
    /// The field that says how many rows a call was about.
    pub(crate) rows: Option<String>,
    /// Whether calls say who called, in the field [`CALLER`].
    pub(crate) caller: bool,
    /// Calls in which this field was not found are not counted.
    pub(crate) require: Option<String>,
    /// How values of fields are made alike.
    pub(crate) normalise: Vec<(String, Normal)>,
    /// The functions whose calls are counted. Those without fields are not counted themselves: what they call is not counted.
    pub(crate) functions: Vec<Function>,
    /// Functions that tell fields of the counted call within which they run.
    pub(crate) within: Vec<Function>,
}

/// A function, or several that are the same to us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Function {
    /// Its name, with its classes or without.
    pub(crate) name: Glob,
    /// Its file; any without one.
    pub(crate) file: Option<Glob>,
    /// What its calls have; of those with one name the first that is found.
    pub(crate) fields: Vec<Field>,
}

impl Function {
    fn is(&self, place: &Place) -> bool {
        let names = [&place.function, place.own_name()];
        names
            .iter()
            .any(|name| self.name.matches(name.text.as_bytes()))
            && (self.file.as_ref()).is_none_or(|file| file.matches(place.file.text.as_bytes()))
    }
}

/// What a function is to a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its calls are counted.
    Counted,
    /// It has no fields, so it only keeps what it calls from being counted.
    Around,
    /// It tells fields of a counted call.
    Within,
    /// Nothing.
    Other,
}

impl Recipe {
    fn all(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().chain(&self.within)
    }

    /// What is to be traced: no less than the recipe names. Names of functions go with every file that is named.
    pub(crate) fn filters(&self) -> Filters {
        let mut filters = Filters::default();
        for function in self.all() {
            if !filters.functions.contains(&function.name) {
                filters.functions.push(function.name.clone());
            }
        }
        let files: Option<Vec<&Glob>> = self.all().map(|it| it.file.as_ref()).collect();
        for file in files.into_iter().flatten() {
            if !filters.files.contains(file) {
                filters.files.push(file.clone());
            }
        }
        filters
    }

    /// The fields of the session: the same path is one, whichever functions have it.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::new();
        for function in self.all() {
            for field in &function.fields {
                let same = |known: &&mut Field| {
                    (&known.name, &known.argument, &known.path, known.at_return)
                        == (&field.name, &field.argument, &field.path, field.at_return)
                };
                match fields.iter_mut().find(same) {
                    Some(known) if known.functions.contains(&function.name) => {}
                    Some(known) => known.functions.push(function.name.clone()),
                    None => fields.push(Field {
                        functions: vec![function.name.clone()],
                        ..field.clone()
                    }),
                }
            }
        }
        fields
    }

    /// The names of its fields.
    pub(crate) fn names(&self) -> Vec<String> {
        let fields = self.all().flat_map(|it| &it.fields);
        let names: BTreeSet<&String> = fields.map(|field| &field.name).collect();
        names.into_iter().cloned().collect()
    }

    fn role(&self, place: &Place) -> Role {
        match self.functions.iter().find(|it| it.is(place)) {
            Some(function) if function.fields.is_empty() => Role::Around,
            Some(_) => Role::Counted,
            None if self.within.iter().any(|it| it.is(place)) => Role::Within,
            None => Role::Other,
        }
    }

    fn normal(&self, field: &str) -> Option<Normal> {
        let mut all = self.normalise.iter();
        all.find(|(name, _)| name == field)
            .map(|(_, normal)| *normal)
    }
}
