//! The paths of fields as sessions and recordings have them: as they are typed, those that are tried one after the other joined.

/// Behind the path of a field that is read when a value is returned; behind its name where it is typed.
pub(crate) const AT_RETURN: &str = "@return";
/// With what a path begins that leads on from the value which is returned.
const RETURNED: &str = "return";
/// Joins the paths of a field that are tried one after the other.
pub(crate) const OR: &str = " or ";

/// Whether a field with these paths is read when calls return, and never before.
pub(crate) fn are_of_returns(paths: &str) -> bool {
    let is_of_returned = |path: &str| {
        let rest = path.strip_prefix(RETURNED);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    paths
        .split(OR)
        .all(|path| path.ends_with(AT_RETURN) || is_of_returned(path))
}
