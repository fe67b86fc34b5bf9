// Package dealstest holds a small working model of a Filecoin network for tests: a chain with the market's rules and
// providers with their ways, all in memory and in the time of the test, so that weeks pass in an instant in a
// testing/synctest bubble. It is no canned answer: proposals are checked, published, sealed, paid for and slashed by
// rules, and what the rules do not allow is recorded as a violation.
//
// It owns the model. It must not know how deals are made: it sees what a node and a provider see. What it leaves out
// (wire formats, sectors, gas, reorganisations) is what deals/devnet is for.
package dealstest
