// Package sqltest tests package mqsql on real databases: PostgreSQL, which the tests start where it is installed, and SQLite. It is a module of its own so that whoever uses the SDK
// inherits no driver.
package sqltest
