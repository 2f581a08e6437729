//! What a backend says of a publication beside its message: the user that is shown as the sender, and who is left out. Pure.

use super::reply::Problem;
use tidegate_core::limits::USER_NAME_BYTES;
use tidegate_core::model::{ConnectionId, Except, UserName, valid_user};
use tidegate_core::percent;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PublishOptions {
    /// Shown as the sender.
    pub(super) user: Option<UserName>,
    /// Members that do not get it.
    pub(super) except: Option<Box<Except>>,
}

impl PublishOptions {
    /// From texts, each of which may be absent.
    ///
    /// # Errors
    /// 400 that names the parameter and says what is accepted.
    pub(super) fn new(user: Option<&str>, exclude: Option<&str>, exclude_user: Option<&str>) -> Result<Self, Problem> {
        let user = user.map(|name| user_name("user", name)).transpose()?;
        let connection = exclude.map(connection).transpose()?;
        let excluded_user = exclude_user.map(|name| user_name("excludeUser", name)).transpose()?;
        Ok(Self { user, except: Except::new(connection, excluded_user) })
    }

    /// From a query.
    ///
    /// # Errors
    /// 400, for a parameter that is not known or stands there twice too.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        const NAMES: [&str; 3] = ["user", "exclude", "excludeUser"];
        let mut values = [const { None }; NAMES.len()];
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(at) = NAMES.iter().position(|known| *known == name) else {
                return Err(bad("publishing takes user=USER, exclude=CONNECTION and excludeUser=USER only"));
            };
            let value = percent::decode(value).ok_or_else(|| bad("a % must be followed by two hexadecimal digits"))?;
            if values[at].replace(value).is_some() {
                return Err(bad(format!("{name} may be said once; more than one cannot be left out")));
            }
        }
        let [user, exclude, exclude_user] = &values;
        Self::new(user.as_deref(), exclude.as_deref(), exclude_user.as_deref())
    }
}

fn connection(text: &str) -> Result<ConnectionId, Problem> {
    let malformed =
        "exclude is a connection's id of 24 lower-case hexadecimal digits, as its client's `welcome` says it";
    text.parse().map_err(|_| bad(malformed))
}

fn user_name(parameter: &str, text: &str) -> Result<UserName, Problem> {
    if !valid_user(text) {
        return Err(bad(format!(
            "{parameter} is no name of a user: 1 to {USER_NAME_BYTES} bytes of printable ASCII without space, *, >, \" and \\, no \
             empty part between dots, no leading $"
        )));
    }
    Ok(text.into())
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::bad("bad-parameter", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "deadbeef0000000100000001";

    #[test]
    fn a_query_names_the_user_and_what_is_left_out() {
        let options =
            PublishOptions::parse(&format!("user=auth0%7C7&exclude={ID}&excludeUser=a+b@example.org")).unwrap();
        let except = options.except.unwrap();
        assert_eq!(options.user.as_deref(), Some("auth0|7"));
        assert_eq!(except.connection, ID.parse().ok());
        assert_eq!(except.user.as_deref(), Some("a+b@example.org"), "a + is a +");
        assert_eq!(PublishOptions::parse(""), Ok(PublishOptions::default()));
    }

    #[test]
    fn a_parameter_that_is_wrong_is_400_and_says_what_is_accepted() {
        for (query, accepted) in [
            ("excludeuser=alice", "excludeUser=USER"),
            ("exclude=alice", "24 lower-case hexadecimal digits"),
            ("exclude=", "24 lower-case hexadecimal digits"),
            ("user=a%20b", "without space"),
            ("user=%", "two hexadecimal digits"),
            ("excludeUser=a&excludeUser=b", "once"),
        ] {
            let problem = PublishOptions::parse(query).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "bad-parameter"), "{query}");
            assert!(problem.message.contains(accepted), "{query}: {}", problem.message);
        }
    }
}
