//! Applies tables by the program `nft`: one process and one transaction a change. Tokio tasks; it must not decide what
//! passes, and it touches no table but ours.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::error::{NetworkError, NetworkErrorKind};
use super::ruleset::{Family, Known, TABLE, Tables, commands, removal};

/// Our tables in the kernel, as far as this process knows them.
#[derive(Debug)]
pub struct Nft {
    /// How it is called.
    program: PathBuf,
    /// What is there; none: not looked yet, or the last change failed.
    known: Option<Known>,
}

impl Default for Nft {
    fn default() -> Self {
        Self { program: "nft".into(), known: None }
    }
}

impl Nft {
    /// The program to call.
    #[cfg(test)]
    pub fn set_program(&mut self, program: PathBuf) {
        (self.program, self.known) = (program, None);
    }

    /// Somebody may have changed our tables: the next change looks first, and writes all rules anew.
    pub fn distrust(&mut self) {
        self.known = None;
    }

    /// Brings the kernel's tables to `wanted`.
    ///
    /// # Errors
    /// When nft is missing or the kernel refuses; nothing has changed then.
    pub async fn apply(&mut self, wanted: &Tables) -> Result<(), NetworkError> {
        let known = match self.known.take() {
            Some(known) => known,
            None => Known::listed(self.list(Family::Bridge).await?.as_ref(), self.list(Family::Inet).await?.as_ref()),
        };
        let changes = commands(&known, wanted);
        if !changes.is_empty()
            && let Err(error) = self.run(&changes).await
        {
            // Somebody else may have changed our tables. Replace them as a whole, still in one transaction.
            tracing::warn!(error = %error.chain(), "a change of the filters was refused; writing all of them anew");
            self.run(&[removal(), commands(&Known::default(), wanted)].concat()).await?;
        }
        self.known = Some(Known::from(wanted));
        Ok(())
    }

    /// Whether this process has written tables that are still there.
    pub fn is_applied(&self) -> bool {
        self.known.is_some()
    }

    /// Removes our tables.
    pub async fn remove(&mut self) -> Result<(), NetworkError> {
        self.known = None;
        self.run(&removal()).await
    }

    /// Whether the kernel would follow connections on bridges, asked without changing anything.
    pub async fn bridge_conntrack(&self) -> Result<bool, NetworkError> {
        let (family, table, chain) = ("bridge", "quantix-probe", "probe");
        let base = json!({"family": family, "table": table, "name": chain,
                          "type": "filter", "hook": "prerouting", "prio": 0, "policy": "accept"});
        let expr = json!([super::ruleset::statement::established(), {"accept": null}]);
        let probe = |more: &[Value]| {
            let first = [json!({"add": {"table": {"family": family, "name": table}}}), json!({"add": {"chain": base}})];
            [&first, more].concat()
        };
        // Without the rule it must work: what fails then is something else.
        self.call(&["-c", "-j", "-f", "-"], &document(&probe(&[]))).await?;
        let rule = json!({"add": {"rule": {"family": family, "table": table, "chain": chain, "expr": expr}}});
        Ok(self.call(&["-c", "-j", "-f", "-"], &document(&probe(&[rule]))).await.is_ok())
    }

    /// A counter's packets; none when there is no such counter.
    pub async fn packets(&self, family: Family, counter: &str) -> Result<Option<u64>, NetworkError> {
        let Some(listing) = self.list(family).await? else { return Ok(None) };
        let objects = listing["nftables"].as_array().into_iter().flatten();
        Ok(objects.filter(|o| o["counter"]["name"] == counter).find_map(|o| o["counter"]["packets"].as_u64()))
    }

    async fn run(&self, commands: &[Value]) -> Result<(), NetworkError> {
        self.call(&["-j", "-f", "-"], &document(commands)).await.map(|_| ())
    }

    /// What is in our table; none when there is no such table.
    async fn list(&self, family: Family) -> Result<Option<Value>, NetworkError> {
        let tables = parse(&self.call(&["-j", "list", "tables"], "").await?)?;
        let ours = |o: &Value| o["table"]["name"] == TABLE && o["table"]["family"] == family.as_str();
        if !tables["nftables"].as_array().is_some_and(|all| all.iter().any(ours)) {
            return Ok(None);
        }
        parse(&self.call(&["-j", "list", "table", family.as_str(), TABLE], "").await?).map(Some)
    }

    /// Runs nft and returns what it printed.
    async fn call(&self, arguments: &[&str], input: &str) -> Result<String, NetworkError> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => NetworkError::new(
                    NetworkErrorKind::Missing,
                    "The program nft is missing, and without filters no guest is let into a network: install nftables",
                ),
                _ => NetworkError::io("Cannot start nft")(e),
            })?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(stdin) = &mut stdin {
                stdin.write_all(input.as_bytes()).await?;
            }
            drop(stdin);
            Ok(())
        };
        let (fed, output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(NetworkError::io("Cannot wait for nft"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("Error")).unwrap_or("it said nothing").trim().to_owned();
            return Err(NetworkError::new(
                NetworkErrorKind::Filter,
                format!("nft refused a change of the filters: {line}"),
            ));
        }
        fed.map_err(NetworkError::io("Cannot send the filters to nft"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn document(commands: &[Value]) -> String {
    json!({"nftables": commands}).to_string()
}

fn parse(text: &str) -> Result<Value, NetworkError> {
    serde_json::from_str(text)
        .map_err(|e| NetworkError::new(NetworkErrorKind::Filter, format!("Cannot read what nft printed: {e}")))
}
