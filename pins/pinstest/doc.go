// Package pinstest is what tests of pins and of everything above it need instead of an IPFS node: DAGs to pin, and
// Tier, a small working model of a hot tier with a network that does what the test says.
//
// TestHotTier is the contract of pins.HotTier as a test. It runs on the model, on the embedded node and on a real
// daemon, so what holds on the model in a test of the scheduler holds in production. The package must not know Kubo.
package pinstest
