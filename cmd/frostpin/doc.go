// Command frostpin is the whole service in one program: `frostpin serve` and the commands of its operator.
//
// It owns settings (config.go, setting.go, load.go), wiring and lifecycle (serve.go), and what is printed. It is the
// only package that knows every concrete type, and it must not hold a business rule: what is true of a pin is decided
// in pins, of a token in auth, of a request in server.
//
// Invariants:
//
//   - Config is the only list of settings. Flags, variables, the file, `config show` and docs/settings.md come from it.
//   - The environment is read in load.go only; nothing else in the program looks at it.
//   - All wrong settings are named together, before anything is opened.
//   - stdout carries answers, stderr carries logs and progress. A token is printed on stdout, once.
//   - serve holds a lock on the data directory, so that two of them cannot share a hot tier.
//
// Decision: settings are read by some 200 lines of our own and not by a configuration library, because those merge
// values before they judge them; then nobody can say in which line or variable a wrong one stands.
package main
