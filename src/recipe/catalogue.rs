//! Which recipes there are: those that are compiled in, and the user's own in `pystap/recipes` in the configuration directory,
//! which take their places; and any other by its path.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Recipe;
use super::file::{self, Wrong};
use crate::authority::own::{self, Configured};
use crate::files::reading;
use crate::text::Foreign;

/// The recipes that are compiled in.
const BUILT_IN: [(&str, &str); 3] = [
    ("http", include_str!("../../recipes/http.toml")),
    ("rpc", include_str!("../../recipes/rpc.toml")),
    ("sql", include_str!("../../recipes/sql.toml")),
];

/// Larger than any real recipe.
const LARGEST: u64 = 1 << 20;
/// Files of a directory that are looked at.
const MOST: usize = 1_000;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    /// There is none of that name, and no such file.
    #[error(
        "there is no recipe {name:?}, so there is nothing to ask; known are {known}; name the path of a file for another"
    )]
    Unknown {
        /// As it was typed.
        name: String,
        /// Names of those that there are.
        known: String,
    },
    /// It cannot be read.
    #[error(
        "the recipe {} cannot be read: {reason}; correct it, or move it away",
        Foreign::path(path)
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// It is wrong.
    #[error("the recipe {origin} is wrong: {message}")]
    Wrong {
        /// Where it is.
        origin: String,
        /// What is wrong, with its place.
        message: String,
        /// The line, with a mark below.
        excerpt: String,
    },
}

/// A recipe, and where it is from.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What it says.
    pub(crate) recipe: Recipe,
    /// Its file; `None` of one that is compiled in.
    pub(crate) path: Option<PathBuf>,
}

/// What there is by name.
#[derive(Debug)]
pub(crate) struct Catalogue(Vec<(String, Option<PathBuf>)>);

impl Catalogue {
    /// Looks for the user's own recipes; reads none.
    ///
    /// # Errors
    /// The directory cannot be read, though it is there.
    pub(crate) fn load() -> Result<Catalogue, RecipeError> {
        match own::configured("recipes") {
            Configured::Own(directory) => Catalogue::of(&directory),
            // Said once, where a command begins.
            Configured::Foreign(..) | Configured::Nothing => Ok(Catalogue::built_in()),
        }
    }

    fn built_in() -> Catalogue {
        let names = BUILT_IN.iter();
        Catalogue(names.map(|(name, _)| ((*name).to_owned(), None)).collect())
    }

    fn of(directory: &Path) -> Result<Catalogue, RecipeError> {
        let mut catalogue = Catalogue::built_in();
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // One that may not be read belongs to somebody else: `sudo -u` and the like keep HOME.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory
                ) =>
            {
                return Ok(catalogue);
            }
            Err(reason) => {
                return Err(RecipeError::Unreadable {
                    path: directory.to_owned(),
                    reason,
                });
            }
        };
        for entry in entries.take(MOST).flatten() {
            let path = entry.path();
            let Some(name) = name_of(&path) else { continue };
            catalogue.0.retain(|(known, _)| *known != name);
            catalogue.0.push((name, Some(path)));
        }
        catalogue.0.sort();
        Ok(catalogue)
    }

    /// The recipe of a name, or in a file.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub(crate) fn find(&self, name: &str) -> Result<Recipe, RecipeError> {
        if let Some((_, path)) = self.0.iter().find(|(known, _)| known == name) {
            return Ok(read(name, path.clone())?.recipe);
        }
        let path = Path::new(name);
        let is_path = name.contains('/') || path.extension().is_some();
        let (true, Some(stem)) = (is_path, path.file_stem()) else {
            let known: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            return Err(RecipeError::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
        Ok(read(&stem.to_string_lossy(), Some(path.to_owned()))?.recipe)
    }

    /// All of them, by name; of those that cannot be used why.
    pub(crate) fn all(&self) -> impl Iterator<Item = Result<Entry, RecipeError>> {
        let all = self.0.iter();
        all.map(|(name, path)| read(name, path.clone()))
    }
}

/// The name of a recipe by the path of its file.
fn name_of(path: &Path) -> Option<String> {
    (path.extension()? == "toml").then_some(())?;
    Some(path.file_stem()?.to_str()?.to_owned())
}

fn read(name: &str, path: Option<PathBuf>) -> Result<Entry, RecipeError> {
    let text = match &path {
        Some(path) => {
            reading::read_text(path, LARGEST).map_err(|reason| RecipeError::Unreadable {
                path: path.clone(),
                reason,
            })?
        }
        None => {
            let mut built_in = BUILT_IN.iter();
            let found = built_in.find(|(known, _)| *known == name);
            found.map_or("", |(_, text)| *text).to_owned()
        }
    };
    let recipe = file::parse(name, &text).map_err(|Wrong { message, excerpt }| {
        let origin = path
            .as_ref()
            .map_or(name.to_owned(), |path| Foreign::path(path).to_string());
        RecipeError::Wrong {
            origin,
            message,
            excerpt,
        }
    })?;
    Ok(Entry { recipe, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_that_is_compiled_in_is_right() {
        let catalogue = Catalogue::built_in();
        let entries: Vec<Entry> = catalogue.all().map(|it| it.expect("a recipe")).collect();
        let names: Vec<&str> = entries.iter().map(|it| it.recipe.name.as_str()).collect();
        assert_eq!(names, ["http", "rpc", "sql"]);
        for Entry { recipe, .. } in entries {
            // Without a file for each, every function of such a name would be traced.
            assert!(recipe.all().all(|it| it.file.is_some()), "{}", recipe.name);
        }
    }

    #[test]
    fn a_users_own_recipe_takes_the_place_of_another_and_a_path_is_any_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = "description = 'd'\ngroup-by = ['a']\n[[function]]\nfunction = 'f'\nfields = { a = 'x' }\n";
        for name in ["sql.toml", "jobs.toml", "notes.txt"] {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let catalogue = Catalogue::of(directory.path()).expect("read");
        let from = |catalogue: &Catalogue| -> Vec<Option<(String, bool)>> {
            let all = catalogue.all();
            let entry = |it: Entry| (it.recipe.name, it.path.is_some());
            all.map(|it| it.ok().map(entry)).collect()
        };
        let named = |name: &str, is_own| Some((name.to_owned(), is_own));
        assert_eq!(
            from(&catalogue),
            [
                named("http", false),
                named("jobs", true),
                named("rpc", false),
                named("sql", true)
            ]
        );
        // One that is wrong does not hide the others.
        fs::write(directory.path().join("jobs.toml"), "description = 7").expect("written");
        let catalogue = Catalogue::of(directory.path()).expect("read");
        assert_eq!(
            from(&catalogue),
            [
                named("http", false),
                None,
                named("rpc", false),
                named("sql", true)
            ]
        );
        assert_eq!(catalogue.find("sql").expect("own").description, "d");
        let path = directory.path().join("notes.txt");
        let named = catalogue
            .find(path.to_str().expect("UTF-8"))
            .expect("a file");
        assert_eq!(named.name, "notes");
        assert!(matches!(
            catalogue.find("nothing"),
            Err(RecipeError::Unknown { .. })
        ));
        assert!(matches!(
            catalogue.find("./nothing"),
            Err(RecipeError::Unreadable { .. })
        ));
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_mistake() {
        let catalogue = Catalogue::of(Path::new("/nonexistent/recipes")).expect("nothing");
        assert_eq!(catalogue.0.len(), BUILT_IN.len());
    }
}
