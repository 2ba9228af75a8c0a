//! The pool of connections, and how a statement is run.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Row};

use super::error::Error;

/// More than the processors can work on, so that none waits for the network's sake; not so many that all get slow.
const CONNECTIONS: usize = 8;
/// How long a request waits for its turn, or for a connection to be made.
const PATIENCE: Duration = Duration::from_secs(2);

/// # Errors
/// The pool cannot be made; it connects only when it is asked to.
pub fn pool(config: &Config) -> Result<Pool, deadpool_postgres::BuildError> {
    let mut config = config.clone();
    config.connect_timeout(PATIENCE).application_name("pg_embed-search");
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, recycling))
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .build()
}

/// A value of a statement. Nothing that a visitor writes is ever part of a statement's text.
#[derive(Clone, Debug)]
pub enum Parameter {
    Text(String),
    Integer(i32),
    Smallint(i16),
}

impl Parameter {
    pub fn type_(&self) -> Type {
        match self {
            Parameter::Text(_) => Type::TEXT,
            Parameter::Integer(_) => Type::INT4,
            Parameter::Smallint(_) => Type::INT2,
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Parameter::Text(value) => value,
            Parameter::Integer(value) => value,
            Parameter::Smallint(value) => value,
        }
    }

    /// As one would write it in SQL.
    pub fn literal(&self) -> String {
        match self {
            Parameter::Text(value) => format!("'{}'", value.replace('\'', "''")),
            Parameter::Integer(value) => value.to_string(),
            Parameter::Smallint(value) => value.to_string(),
        }
    }
}

/// A statement that answers a visitor, and that the page shows.
#[derive(Clone, Debug)]
pub struct Statement {
    pub sql: String,
    pub parameters: Vec<Parameter>,
}

impl Statement {
    /// # Errors
    /// The database is away, or refuses.
    pub async fn run(&self, connection: &Object) -> Result<Vec<Row>, Error> {
        let types: Vec<Type> = self.parameters.iter().map(Parameter::type_).collect();
        let prepared = connection.prepare_typed_cached(&self.sql, &types).await?;
        let values: Vec<_> = self.parameters.iter().map(Parameter::value).collect();
        Ok(connection.query(&prepared, &values).await?)
    }

    /// The plan that Postgres takes for it, with what each step took.
    ///
    /// # Errors
    /// The database is away, or refuses.
    pub async fn explain(&self, connection: &Object) -> Result<String, Error> {
        let explain = Statement {
            sql: format!("EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF, SUMMARY ON)\n{}", self.sql),
            parameters: self.parameters.clone(),
        };
        let lines: Result<Vec<String>, _> =
            explain.run(connection).await?.iter().map(|row| row.try_get(0)).collect();
        Ok(lines?.join("\n"))
    }
}
