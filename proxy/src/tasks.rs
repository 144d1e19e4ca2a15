//! Records which profile created a task, so that requests about it are sent to the same server.
//!
//! Servers choose the ids of their tasks, and two may use the same id at the same time. A request doesn't tell which of
//! them the client means, so it is refused: it could end the wrong task.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::config::ProfileName;
use crate::sync::lock;
use crate::wire::{Envelope, Object};

/// The most tasks that are recorded.
const MAX_TASKS: usize = 4096;
/// The longest response that is searched for a created task: it has no content yet.
const MAX_CREATED: usize = 64 << 10;
/// Longer task ids aren't recorded; such tasks belong to the default profile.
const MAX_TASK_ID: usize = 1024;

/// The tasks of one client.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<VecDeque<Task>>);

#[derive(Debug)]
struct Task {
    id: String,
    profile: ProfileName,
    has_ended: bool,
}

/// Two profiles have a task with the same id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous(pub(crate) Vec<ProfileName>);

impl Tasks {
    /// The profile that created the task; `None` if that is unknown.
    pub(crate) fn profile_of(&self, task: &str) -> Result<Option<ProfileName>, Ambiguous> {
        let tasks = lock(&self.0);
        let of_id = || tasks.iter().filter(|known| known.id == task);
        let mut live: Vec<_> = of_id().filter(|task| !task.has_ended).collect();
        match (live.pop(), live.is_empty()) {
            // A request about an ended task is about the last one with this id.
            (None, _) => Ok(of_id().next_back().map(|task| task.profile.clone())),
            (Some(task), true) => Ok(Some(task.profile.clone())),
            (Some(task), false) => {
                let all = live.into_iter().chain([task]);
                Err(Ambiguous(all.map(|task| task.profile.clone()).collect()))
            }
        }
    }

    /// Whether this profile created the task.
    pub(crate) fn is_of(&self, task: &str, profile: &ProfileName) -> bool {
        lock(&self.0).iter().any(|known| known.id == task && known.profile == *profile)
    }

    /// Records whether a task has ended, by a server's response about it. `has_result` is set for a response with the
    /// task's result, which exists only after the end.
    pub(crate) fn on_response(
        &self,
        profile: &ProfileName,
        task: &str,
        response: &str,
        has_result: bool,
    ) {
        let result = Envelope::parse(response).ok().and_then(|it| Object::parse(it.result?).ok());
        let Some(result) = result else { return };
        let status = result.find_string("status");
        let has_ended = has_result
            || status
                .is_some_and(|status| matches!(&*status, "completed" | "failed" | "cancelled"));
        if has_ended {
            let mut tasks = lock(&self.0);
            let known = tasks.iter_mut().find(|it| it.id == task && it.profile == *profile);
            known.into_iter().for_each(|task| task.has_ended = true);
        }
    }

    /// Forgets all tasks, because the client's sessions have ended.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Records the profile of a task, if `response` reports that one was created.
    pub(crate) fn learn(&self, profile: &ProfileName, response: &str) {
        // A fast path: nearly every response ends here.
        if response.len() > MAX_CREATED
            || memchr::memmem::find(response.as_bytes(), b"\"taskId\"").is_none()
        {
            return;
        }
        let result = Envelope::parse(response).ok().and_then(|envelope| envelope.result);
        if let Some(result) = result.and_then(|result| Object::parse(result).ok()) {
            self.remember(profile, &result);
        }
    }

    fn remember(&self, profile: &ProfileName, result: &Object<'_>) {
        let task = result.find_object("task");
        let id = task.as_ref().unwrap_or(result).find_string("taskId");
        if let Some(id) = id.filter(|id| id.len() <= MAX_TASK_ID) {
            let mut tasks = lock(&self.0);
            // The same task again, or an id that the same server reuses.
            tasks.retain(|task| task.id != *id || task.profile != *profile);
            if tasks.len() == MAX_TASKS {
                tasks.pop_front();
            }
            let (id, profile) = (id.into_owned(), profile.clone());
            tasks.push_back(Task { id, profile, has_ended: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"task":{{"taskId":"{id}","status":"working"}}}}}}"#
        )
    }

    #[test]
    fn a_task_belongs_to_the_profile_that_made_it() {
        let [dev, prod] = ["dev", "prod"].map(|name| ProfileName::parse(name).unwrap());
        let tasks = Tasks::default();
        tasks.learn(&prod, &made("1"));
        tasks.learn(&dev, r#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"2"}}"#);
        tasks.learn(&dev, r#"{"jsonrpc":"2.0","id":1,"error":{"taskId":"3"}}"#);
        assert_eq!(tasks.profile_of("1"), Ok(Some(prod.clone())));
        assert_eq!(tasks.profile_of("2"), Ok(Some(dev.clone())));
        assert_eq!(tasks.profile_of("3"), Ok(None));
        tasks.learn(&prod, &made("1"));
        assert_eq!(
            tasks.profile_of("1"),
            Ok(Some(prod.clone())),
            "the same server reported it again"
        );
        tasks.learn(&dev, &made("1"));
        let both = Err(Ambiguous(vec![prod.clone(), dev.clone()]));
        assert_eq!(tasks.profile_of("1"), both, "nobody can tell");
        let working = r#"{"id":2,"result":{"taskId":"1","status":"working"}}"#;
        tasks.on_response(&prod, "1", working, false);
        assert_eq!(tasks.profile_of("1"), both);
        let done = r#"{"id":2,"result":{"taskId":"1","status":"completed"}}"#;
        tasks.on_response(&prod, "1", done, false);
        assert_eq!(tasks.profile_of("1"), Ok(Some(dev.clone())), "the other one has ended");
        tasks.on_response(&dev, "1", r#"{"id":3,"result":{"content":[]}}"#, true);
        assert_eq!(tasks.profile_of("1"), Ok(Some(dev)), "the last one");
        tasks.clear();
        assert_eq!(tasks.profile_of("1"), Ok(None));
    }

    #[test]
    fn recorded_tasks_are_bounded() {
        let dev = ProfileName::parse("dev").unwrap();
        let tasks = Tasks::default();
        for number in 0..2 * MAX_TASKS {
            tasks.learn(&dev, &made(&number.to_string()));
        }
        tasks.learn(&dev, &made(&"x".repeat(MAX_TASK_ID + 1)));
        assert_eq!(lock(&tasks.0).len(), MAX_TASKS);
        assert_eq!(tasks.profile_of("0"), Ok(None), "the oldest is dropped");
    }
}
