//! Which functions a user named, what is known of each in the programs that are traced, and what is said of those that nothing was
//! seen of. Knows names only: who looks for them is `missed`.

use std::fmt::Write as _;

use crate::event::Place;
use crate::python::frames::Made;
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::shell;
use crate::text::Foreign;

/// How many near names are suggested.
const SUGGESTED: usize = 3;
/// Longest name that is suggested, in characters. A hostile program has longer ones.
const LONGEST: usize = 80;
/// Of how many of those that nothing was seen of it is said why.
const EXPLAINED: usize = 3;

/// What a user named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sought {
    /// Each is looked for by itself.
    items: Vec<Item>,
    /// What else a function has to be to be traced.
    others: Filters,
    /// What they are together, where one of them is enough.
    together: Option<String>,
}

/// Functions by their name, or by their file or module.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    /// As it was typed.
    typed: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Function { name: Glob, file: Option<Glob> },
    File(Glob),
    Module(Glob),
}

/// What is known of one of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// A function that is meant: its name with classes, and its file.
    there: Option<(String, String)>,
    /// The file of one that another filter leaves out.
    left_out: Option<String>,
    /// What is like it, the most alike first.
    near: Vec<(usize, String)>,
}

/// What matters for what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// Whether names have their classes.
    pub(crate) classes: bool,
    /// Whether any function of the programs was found.
    pub(crate) looked: bool,
    /// Whether calls that are not long enough are not told.
    pub(crate) long_only: bool,
    /// Whether the session is over.
    pub(crate) over: bool,
}

impl Sought {
    /// What filters name: functions, or else files, or else modules.
    pub(crate) fn by_filters(filters: &Filters) -> Sought {
        let mut others = filters.clone();
        let mut items: Vec<Item> = std::mem::take(&mut others.functions)
            .into_iter()
            .map(|name| Item {
                typed: name.as_str().to_owned(),
                kind: Kind::Function { name, file: None },
            })
            .collect();
        if items.is_empty() {
            let files = std::mem::take(&mut others.files).into_iter();
            items.extend(files.map(|glob| Item {
                typed: glob.as_str().to_owned(),
                kind: Kind::File(glob),
            }));
        }
        if items.is_empty() {
            let modules = std::mem::take(&mut others.modules).into_iter();
            items.extend(modules.map(|glob| Item {
                typed: glob.as_str().to_owned(),
                kind: Kind::Module(glob),
            }));
        }
        Sought {
            items,
            others,
            together: None,
        }
    }

    /// Functions, some of them with their files: as they were typed, the file, and the name.
    pub(crate) fn by_name(named: impl IntoIterator<Item = (String, Option<Glob>, Glob)>) -> Sought {
        let items = named.into_iter().map(|(typed, file, name)| Item {
            typed,
            kind: Kind::Function { name, file },
        });
        Sought {
            items: items.collect(),
            others: Filters::default(),
            together: None,
        }
    }

    /// The same where one of them is enough; `together` says what they are, such as `of these`.
    pub(crate) fn any_of(self, together: String) -> Sought {
        Sought {
            together: Some(together),
            ..self
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is looked for any longer when one of them was seen.
    pub(crate) fn is_any(&self) -> bool {
        self.together.is_some()
    }

    /// Whether an event is of this one.
    pub(crate) fn is_of(&self, item: usize, place: &Place) -> bool {
        let file = place.file.text.as_bytes();
        let names = [&*place.function.text, &*place.own_name().text];
        self.items.get(item).is_some_and(|it| it.has(file, names))
    }

    /// What is wrong with patterns over files, before anybody looks at a program: a file is absolute as Python has it, as a rule.
    pub(crate) fn misunderstood(&self) -> Vec<String> {
        let of_items = self.items.iter().filter_map(|item| match &item.kind {
            Kind::File(glob) => Some((glob, String::new())),
            Kind::Function { name, file } => {
                let name = format!(":{}", name.as_str());
                file.as_ref().map(|file| (file, name))
            }
            Kind::Module(_) => None,
        });
        let others = self.others.files.iter().chain(&self.others.not_files);
        let all = of_items.chain(others.map(|glob| (glob, String::new())));
        all.filter(|(glob, _)| is_relative(glob))
            .map(|(glob, behind)| {
                let plain = glob.as_str().trim_start_matches("./");
                format!(
                    "Python names files by their absolute paths, as a rule, so {} hardly matches any; type {}",
                    Foreign::new(glob.as_str()),
                    shell::word(format!("*/{plain}{behind}"))
                )
            })
            .collect()
    }

    /// Takes note of a function of a program, for each of those that nothing was seen of; `classes` says whether its name comes with
    /// its classes.
    pub(crate) fn compare(&self, made: &Made, classes: bool, known: &mut [Known]) {
        let file = made.file.as_bytes();
        let seen = match classes {
            true => &made.qualname,
            false => &made.name,
        };
        let is_left_out = !self
            .others
            .accepts(file, [&made.name, seen].map(|it| it.as_bytes()));
        for (item, known) in self.items.iter().zip(known) {
            if item.has(file, [&made.name, seen]) {
                match is_left_out {
                    true => known.left_out.get_or_insert_with(|| cut(&made.file)),
                    false => {
                        let place = || (cut(&made.qualname), cut(&made.file));
                        known.there.get_or_insert_with(place);
                        continue;
                    }
                };
            } else if !is_left_out && let Some((distance, name)) = item.near(made, classes) {
                known.is_like(distance, name);
            }
        }
    }

    /// What is said of those that nothing was seen of: of those that are there as well where that is asked for. `None` where that is
    /// nothing.
    pub(crate) fn said(
        &self,
        missed: &[(usize, &Known)],
        with_there: bool,
        so_far: Circumstances,
    ) -> Option<String> {
        if let Some(together) = &self.together {
            let together = Foreign::new(together);
            let there = missed.iter().find_map(|(_, known)| known.there.as_ref());
            let yet = so_far.yet();
            return match there {
                Some((name, file)) => with_there.then(|| {
                    let (name, file) = (Foreign::new(name), Foreign::new(file));
                    format!(
                        "no call {together} {yet}: {name} is there ({file}), and nobody called it"
                    )
                }),
                // Most likely a recipe for a library that this program does without.
                None if so_far.looked => Some(format!(
                    "no call {together} {yet}, and none of these functions was found in the program: it does not use that library, or has not \
                     imported it yet"
                )),
                None => with_there.then(|| format!("no call {together} {yet}")),
            };
        }
        let clauses: Vec<String> = missed
            .iter()
            .filter_map(|(item, known)| {
                let item = self.items.get(*item)?;
                let why = known.why(item, with_there, so_far)?;
                Some(format!("no call {} {why}", item.named()))
            })
            .collect();
        let mut text = clauses
            .iter()
            .take(EXPLAINED)
            .fold(String::new(), |mut text, it| {
                if !text.is_empty() {
                    text.push_str("; ");
                }
                text + it
            });
        if clauses.len() > EXPLAINED {
            let _ = write!(text, "; nor of {} more", clauses.len() - EXPLAINED);
        }
        (!text.is_empty()).then_some(text)
    }
}

impl Circumstances {
    /// That nothing was seen, behind what it was not seen of.
    fn yet(self) -> &'static str {
        match (self.over, self.long_only) {
            (true, false) => "was seen",
            (false, false) => "was seen so far",
            (true, true) => "that was long enough was seen",
            (false, true) => "that was long enough was seen so far",
        }
    }
}

impl Item {
    fn has(&self, file: &[u8], names: [&str; 2]) -> bool {
        match &self.kind {
            Kind::Function { name, file: within } => {
                names.iter().any(|it| name.matches(it.as_bytes()))
                    && within.as_ref().is_none_or(|it| it.matches(file))
            }
            Kind::File(glob) | Kind::Module(glob) => glob.matches(file),
        }
    }

    /// Such as `of put`.
    fn named(&self) -> String {
        let typed = Foreign::new(&self.typed);
        match self.kind {
            Kind::Function { .. } => format!("of {typed}"),
            Kind::File(_) => format!("in files {typed}"),
            Kind::Module(_) => format!("in modules {typed}"),
        }
    }

    /// How far a function is from what was typed, and what to type for it; `None` where they are not alike.
    fn near(&self, made: &Made, classes: bool) -> Option<(usize, String)> {
        match &self.kind {
            Kind::Function { name, file } => {
                let typed = name.as_str();
                let is_there = file
                    .as_ref()
                    .is_none_or(|it| it.matches(made.file.as_bytes()));
                // The name is right, and the file is not.
                if !is_there && name.matches(made.name.as_bytes()) {
                    let end = made.file.rsplit('/').next().unwrap_or_default();
                    return Some((0, shell::word(format!("*/{end}:{typed}"))));
                }
                let last = typed.rsplit('.').next().unwrap_or_default();
                match (classes && typed.contains('.'), is_there) {
                    (_, false) => None,
                    (true, _) if last == made.name => Some((1, made.qualname.clone())),
                    (true, _) => Some((distance(typed, &made.qualname)?, made.qualname.clone())),
                    // Right but for the class, which is not told.
                    (false, _) if last == made.name => Some((0, made.name.clone())),
                    (false, _) => Some((distance(last, &made.name)?, made.name.clone())),
                }
            }
            Kind::File(glob) => near_file(glob.as_str(), &made.file),
            Kind::Module(glob) => near_module(glob.as_str(), &made.file),
        }
    }
}

impl Known {
    fn is_like(&mut self, distance: usize, name: String) {
        if self.near.iter().any(|(_, known)| *known == name) {
            return;
        }
        let place = self.near.partition_point(|(known, _)| *known <= distance);
        if place < SUGGESTED && name.chars().count() <= LONGEST {
            self.near.insert(place, (distance, name));
            self.near.truncate(SUGGESTED);
        }
    }

    /// Takes what was found elsewhere.
    pub(crate) fn merge(&mut self, other: Known) {
        self.there = self.there.take().or(other.there);
        self.left_out = self.left_out.take().or(other.left_out);
        for (distance, name) in other.near {
            self.is_like(distance, name);
        }
    }

    /// Why nothing was seen, and what to type.
    fn why(&self, item: &Item, with_there: bool, so_far: Circumstances) -> Option<String> {
        let yet = so_far.yet();
        if let Some((name, file)) = &self.there {
            return with_there.then(|| {
                let (name, file) = (Foreign::new(name), Foreign::new(file));
                match so_far.long_only {
                    true => format!("{yet}, and {name} is there ({file})"),
                    false => format!("{yet}: {name} is there ({file}), and nobody called it"),
                }
            });
        }
        let last = item.typed.rsplit(['.', ':']).next().unwrap_or_default();
        let has_class =
            matches!(&item.kind, Kind::Function { name, .. } if name.as_str().contains('.'));
        if has_class && !so_far.classes {
            // What was typed behind the class, unless there is no such function and one that is like it.
            let nearest = self
                .near
                .first()
                .map(|(distance, name)| (*distance, &**name));
            let instead = match nearest {
                _ if last.bytes().all(|byte| byte == b'*') => String::new(),
                Some((1.., near)) if !last.contains('*') => {
                    format!("type {} if that is meant, or ", Foreign::new(near))
                }
                _ => format!("type {}, or ", shell::word(last)),
            };
            return Some(format!(
                "{yet}: the interpreter's own probes tell names without their classes; {instead}add --agent, which tells them"
            ));
        }
        if let Some(file) = &self.left_out {
            return Some(format!(
                "{yet}: it is in {}, which the other filters leave out",
                Foreign::new(file)
            ));
        }
        let nearest = self.near.first().map_or(0, |(distance, _)| *distance);
        let near = self
            .near
            .iter()
            .filter(|(distance, _)| *distance <= nearest + 1);
        let near: Vec<String> = near.map(|(_, it)| Foreign::new(it).to_string()).collect();
        Some(match (near.as_slice(), so_far.looked) {
            ([], false) => format!("{yet}; without the filter you see what is called"),
            ([], true) => format!("{yet}, and no function like that was found in the program"),
            ([one], _) => format!("{yet}; did you mean {one}?"),
            ([first @ .., last], _) => {
                format!("{yet}; did you mean {} or {last}?", first.join(", "))
            }
        })
    }
}

/// Whether a pattern over files matches no absolute path.
fn is_relative(glob: &Glob) -> bool {
    let first = glob.as_str().bytes().next();
    // `<string>` is a file, too.
    first.is_some_and(|byte| !b"/*?[<\\".contains(&byte))
}

/// As much of a text as is shown.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// How many letters a name is from a pattern, as far as that says that one is meant by the other. Case is one letter. Wildcards at
/// the ends of the pattern stand for any.
fn distance(pattern: &str, name: &str) -> Option<usize> {
    let core = pattern.trim_matches('*');
    if core.is_empty() || core.contains(['*', '?', '[', '\\']) || name.len() > 4 * LONGEST {
        return None;
    }
    let (core, name) = (core.to_lowercase(), name.to_lowercase());
    let (long, wanted) = (name.chars().count(), core.chars().count());
    let part: String = match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (true, true) => return name.contains(&core).then_some(1),
        (true, false) => name.chars().skip(long.saturating_sub(wanted)).collect(),
        (false, true) => name.chars().take(wanted).collect(),
        (false, false) => name.clone(),
    };
    let most = wanted.div_ceil(3).min(4);
    let differs = part.chars().count().abs_diff(wanted) > most;
    let letters = (!differs).then(|| strsim::osa_distance(&core, &part));
    let alike = letters
        .filter(|letters| *letters <= most)
        .map(|letters| letters.max(1));
    // Somebody left a part of it out: that says more than three letters of seven that are others.
    match wanted > 3 && name.contains(&core) {
        true => Some(alike.map_or(2, |letters| letters.min(2))),
        false => alike,
    }
}

/// The same for a pattern over files, and what to type.
fn near_file(pattern: &str, file: &str) -> Option<(usize, String)> {
    let plain = pattern.trim_start_matches("./");
    let typed = |end: &str| shell::word(format!("*/{end}"));
    if !plain.starts_with(['/', '*']) && file.ends_with(&format!("/{plain}")) {
        return Some((0, typed(plain)));
    }
    let is_plain = |it: &&str| !it.is_empty() && it.bytes().any(|byte| byte != b'*');
    let (end, name) = (plain.rsplit('/').next()?, file.rsplit('/').next()?);
    if is_plain(&end) {
        let letters = match end == name {
            true => 0,
            false => distance(end, name)?,
        };
        return Some((letters, typed(name)));
    }
    // A directory.
    let wanted = plain.rsplit('/').find(is_plain)?;
    let all = file.rsplit('/').skip(1).filter(|it| !it.is_empty());
    let all = all.filter_map(|it| Some((distance(wanted, it)?, typed(&format!("{it}/*")))));
    all.min_by_key(|(letters, _)| *letters)
}

/// The same for a pattern over modules.
fn near_module(pattern: &str, file: &str) -> Option<(usize, String)> {
    let (wanted, behind) = match pattern.strip_suffix(".*") {
        Some(package) => (package, ".*"),
        None => (pattern, ""),
    };
    let path = file.strip_suffix(".py")?;
    let path = path.strip_suffix("/__init__").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    let count = wanted.split('.').count();
    // A package is anywhere above the module.
    let named = |parts: &[&str]| {
        let module = parts.join(".");
        Some((distance(wanted, &module)?, format!("{module}{behind}")))
    };
    match behind {
        "" => named(parts.get(parts.len().checked_sub(count)?..)?),
        _ => parts
            .windows(count)
            .filter_map(named)
            .min_by_key(|(letters, _)| *letters),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::new(text).expect("a pattern")
    }

    fn functions(names: &[&str]) -> Sought {
        Sought::by_filters(&Filters {
            functions: names.iter().map(|name| glob(name)).collect(),
            ..Filters::default()
        })
    }

    /// A program that keeps things.
    fn program() -> Vec<Made> {
        [
            ("put", "Store.put", "/srv/app/store.py"),
            ("get", "Store.get", "/srv/app/store.py"),
            ("get", "Cache.get", "/srv/app/cache.py"),
            ("fetch_rows", "fetch_rows", "/srv/app/db/query.py"),
            (
                "_build_instance",
                "Manager._build_instance",
                "/srv/app/manager.py",
            ),
            ("\u{1b}[2Jputs", "\u{1b}[2Jputs", "/srv/evil.py"),
        ]
        .map(|(name, qualname, file)| Made {
            name: name.to_owned(),
            qualname: qualname.to_owned(),
            file: file.to_owned(),
        })
        .to_vec()
    }

    const SO_FAR: Circumstances = Circumstances {
        classes: false,
        looked: true,
        long_only: false,
        over: false,
    };

    /// What is said where nothing was seen of this in that program.
    fn said_in(sought: &Sought, so_far: Circumstances, with_there: bool) -> String {
        let mut known = vec![Known::default(); sought.len()];
        for made in program() {
            sought.compare(&made, so_far.classes, &mut known);
        }
        let missed: Vec<_> = known.iter().enumerate().collect();
        sought.said(&missed, with_there, so_far).unwrap_or_default()
    }

    fn said(names: &[&str], so_far: Circumstances) -> String {
        said_in(&functions(names), so_far, true)
    }

    const WITH_CLASSES: Circumstances = Circumstances {
        classes: true,
        ..SO_FAR
    };

    #[test]
    fn a_class_that_own_probes_do_not_tell_is_left_out_or_comes_from_the_agent() {
        let text = said(&["Store.put"], SO_FAR);
        assert_eq!(
            text,
            "no call of Store.put was seen so far: the interpreter's own probes tell names without their classes; type put, or add \
             --agent, which tells them"
        );
        let misspelt = said(&["Store.putt"], SO_FAR);
        assert!(
            misspelt.ends_with("; type put if that is meant, or add --agent, which tells them"),
            "{misspelt}"
        );
        let nowhere = said(&["Store.*"], SO_FAR);
        assert!(nowhere.contains("; add --agent"), "{nowhere}");
        let over = Circumstances {
            over: true,
            looked: false,
            ..SO_FAR
        };
        let unseen = functions(&["Store.put"]);
        let text = unseen
            .said(&[(0, &Known::default())], true, over)
            .expect("said");
        assert!(text.contains("type put, or add --agent"), "{text}");
    }

    #[test]
    fn near_names_are_suggested_the_nearest_first_and_in_the_words_that_would_match() {
        let end =
            |names: &[&str], so_far| said(names, so_far).split("; ").last().map(str::to_owned);
        let meant = |names, so_far, suggested: &str| {
            assert_eq!(
                end(names, so_far),
                Some(format!("did you mean {suggested}?"))
            );
        };
        meant(&["gett"], SO_FAR, "get");
        meant(&["Put"], SO_FAR, "put");
        meant(&["Stor.put"], WITH_CLASSES, "Store.put");
        meant(&["Cash.get"], WITH_CLASSES, "Store.get or Cache.get");
        meant(&["fecth_*"], SO_FAR, "fetch_rows");
        meant(&["build_instance"], SO_FAR, "_build_instance");
        meant(&["instance"], SO_FAR, "_build_instance");
        meant(&["ptus"], SO_FAR, "put");
        let nothing = said(&["zebra"], SO_FAR);
        assert!(
            nothing.ends_with("no function like that was found in the program"),
            "{nothing}"
        );
        let unseen = said(&["a*b*c"], SO_FAR);
        assert!(!unseen.contains("did you mean"), "{unseen}");
    }

    #[test]
    fn a_hostile_name_is_escaped_and_a_long_one_is_left_out() {
        let text = said(&["2Jputs*"], SO_FAR);
        assert!(!text.contains('\u{1b}'), "{text}");
        let sought = functions(&["aaaa*"]);
        let mut known = [Known::default()];
        for name in [
            format!("aaaa{}", "b".repeat(1000)),
            "aaab\u{202e}".to_owned(),
        ] {
            let made = Made {
                qualname: name.clone(),
                name,
                file: "/x.py".to_owned(),
            };
            sought.compare(&made, false, &mut known);
        }
        let missed = [(0, &known[0])];
        let text = sought.said(&missed, true, SO_FAR).expect("said");
        assert!(text.len() < 400 && !text.contains('\u{202e}'), "{text}");
    }

    #[test]
    fn what_is_there_and_was_not_called_is_said_where_that_is_asked_for() {
        let text = said(&["put"], SO_FAR);
        assert_eq!(
            text,
            "no call of put was seen so far: Store.put is there (/srv/app/store.py), and nobody called it"
        );
        assert_eq!(said_in(&functions(&["put"]), SO_FAR, false), "");
        let long = Circumstances {
            long_only: true,
            over: true,
            ..SO_FAR
        };
        assert_eq!(
            said(&["put"], long),
            "no call of put that was long enough was seen, and Store.put is there (/srv/app/store.py)"
        );
    }

    #[test]
    fn what_another_filter_leaves_out_is_told_from_what_is_not_there() {
        let sought = Sought::by_filters(&Filters {
            functions: vec![glob("put")],
            files: vec![glob("*/cache.py")],
            ..Filters::default()
        });
        let text = said_in(&sought, SO_FAR, true);
        assert!(
            text.contains("it is in /srv/app/store.py, which the other filters leave out"),
            "{text}"
        );
    }

    #[test]
    fn files_and_modules_are_suggested_as_they_are_typed() {
        let of = |filters: Filters| said_in(&Sought::by_filters(&filters), SO_FAR, true);
        let file = |text: &str| {
            of(Filters {
                files: vec![glob(text)],
                ..Filters::default()
            })
        };
        let module = |text: &str| {
            of(Filters {
                modules: vec![Glob::module(text).expect("a pattern")],
                ..Filters::default()
            })
        };
        assert!(
            file("store.py").ends_with("did you mean '*/store.py'?"),
            "{}",
            file("store.py")
        );
        assert!(
            file("*/stroe.py").contains("did you mean '*/store.py'"),
            "{}",
            file("*/stroe.py")
        );
        assert!(
            file("*/appp/*").contains("did you mean '*/app/*'"),
            "{}",
            file("*/appp/*")
        );
        assert!(
            module("app.stores").contains("did you mean app.store"),
            "{}",
            module("app.stores")
        );
        assert!(
            module("ap.db.*").contains("did you mean app.db.*"),
            "{}",
            module("ap.db.*")
        );
        let sought = Sought::by_name([(
            "*/store.py:fetch_rows".to_owned(),
            Some(glob("*/store.py")),
            glob("fetch_rows"),
        )]);
        let text = said_in(&sought, SO_FAR, true);
        assert!(
            text.contains("did you mean '*/query.py:fetch_rows'"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_no_absolute_path_is_told_before_anything_is_traced() {
        let sought = |files: &[&str], not_files: &[&str]| {
            let globs = |all: &[&str]| all.iter().map(|it| glob(it)).collect();
            Sought::by_filters(&Filters {
                files: globs(files),
                not_files: globs(not_files),
                ..Filters::default()
            })
        };
        assert_eq!(
            sought(
                &["store.py", "/srv/a.py", "*b.py", "<string>"],
                &["tests/*"]
            )
            .misunderstood(),
            [
                "Python names files by their absolute paths, as a rule, so store.py hardly matches any; type '*/store.py'",
                "Python names files by their absolute paths, as a rule, so tests/* hardly matches any; type '*/tests/*'"
            ]
        );
        let of_stats = Sought::by_name([(
            "store.py:put".to_owned(),
            Some(glob("store.py")),
            glob("put"),
        )]);
        assert!(of_stats.misunderstood()[0].ends_with("type '*/store.py:put'"));
    }

    #[test]
    fn of_many_that_nothing_was_seen_of_some_are_explained_and_the_rest_is_counted() {
        let text = said(&["zebra", "yak", "xerus", "wombat", "vole"], SO_FAR);
        assert_eq!(text.matches("no call of").count(), EXPLAINED);
        assert!(text.ends_with("; nor of 2 more"), "{text}");
    }

    #[test]
    fn where_one_is_enough_it_is_said_that_none_is_there_or_that_one_is_and_nobody_called_it() {
        let any = |names: &[&str]| functions(names).any_of("that recipe rpc counts".to_owned());
        let library = any(&["dispatch", "*_send"]);
        assert!(library.is_any());
        assert_eq!(
            said_in(&library, SO_FAR, false),
            "no call that recipe rpc counts was seen so far, and none of these functions was found in the program: it does not use \
             that library, or has not imported it yet"
        );
        let partly = any(&["dispatch", "put"]);
        assert_eq!(said_in(&partly, SO_FAR, false), "");
        assert_eq!(
            said_in(&partly, SO_FAR, true),
            "no call that recipe rpc counts was seen so far: Store.put is there (/srv/app/store.py), and nobody called it"
        );
    }
}
