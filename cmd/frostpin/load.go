package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// environmentPrefix begins the name of every variable that is ours.
const environmentPrefix = "FROSTPIN_"

// foreignPrefixes begin variables of the tests, which may be set around any frostpin command.
var foreignPrefixes = []string{"TEST_", "E2E_", "KILL_", "DEAL_KILL_", "FUZZ_"}

// orchestrated tells what Kubernetes puts into the environment of containers beside a Service named frostpin.
func orchestrated(rest string) bool {
	return rest == "PORT" || rest == "SERVICE_HOST" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_PORT")
}

// The settings file: how it is named on the command line, and where it is looked for otherwise.
const (
	configFlag     = "config"
	configVariable = environmentPrefix + "CONFIG"
	configFile     = "frostpin.yaml"
)

// A loaded config knows who decided what.
type loaded struct {
	Config
	file    string            // that was read; empty when there is none
	sources map[string]string // by setting: where its value comes from; absent means default
}

// load reads the settings: defaults, then the file, then the environment, then flags, the later the stronger. The
// error names every problem of every source.
func load(environ []string, flags *pflag.FlagSet) (*loaded, error) {
	l := &loaded{Config: defaults(), sources: make(map[string]string)}
	env, wrong := environment(environ)
	l.DataDir = defaultDataDir(environ)

	// Where the file is must be known before it is read.
	dataDir := l.DataDir
	if text, ok := env["data-dir"]; ok {
		dataDir = text
	}
	if flag := flags.Lookup("data-dir"); flag != nil && flag.Changed {
		dataDir = flag.Value.String()
	}
	path, named := lookup(environ, configVariable)
	if flag := flags.Lookup(configFlag); flag != nil && flag.Changed {
		path, named = flag.Value.String(), true
	}
	if !named {
		path = filepath.Join(dataDir, configFile)
	}
	content, err := os.ReadFile(path)
	switch {
	case err == nil:
		l.file = path
		wrong = append(wrong, l.applyFile(path, content, named)...)
	case named || !errors.Is(err, fs.ErrNotExist):
		wrong = append(wrong, fmt.Errorf("reading the settings: %w", err))
	}
	for _, s := range settings() {
		if text, ok := env[s.name]; ok {
			wrong = l.apply(wrong, s, s.variable(), text)
		}
		if flag := flags.Lookup(s.name); flag != nil && flag.Changed {
			wrong = l.apply(wrong, s, "--"+s.name, flag.Value.String())
		}
	}
	if l.DataDir != "" {
		if l.DataDir, err = filepath.Abs(l.DataDir); err != nil {
			wrong = append(wrong, fmt.Errorf("data-dir: %w", err))
		}
	}
	l.derive(func(name string) bool { return l.sources[name] != "" })
	wrong = append(wrong, l.Validate())
	if err := errors.Join(wrong...); err != nil {
		return l, &settingsError{err}
	}
	return l, nil
}

// apply sets one setting from one source and adds what is wrong with it.
func (l *loaded) apply(wrong []error, s setting, source string, texts ...string) []error {
	if err := s.set(&l.Config, texts...); err != nil {
		return append(wrong, fmt.Errorf("%s: %w", source, err))
	}
	l.sources[s.name] = source
	return wrong
}

// environment returns our variables by setting. Those that name no setting are probably misspelt.
func environment(environ []string) (map[string]string, []error) {
	found := make(map[string]string)
	names := make(map[string]string)
	for _, s := range settings() {
		names[s.variable()] = s.name
	}
	var wrong []error
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		rest, ours := strings.CutPrefix(variable, environmentPrefix)
		if !ours || orchestrated(rest) || variable == configVariable || variable == serverVariable || variable == tokenVariable ||
			slices.ContainsFunc(foreignPrefixes, func(prefix string) bool { return strings.HasPrefix(rest, prefix) }) {
			continue
		}
		if name, ok := names[variable]; ok {
			found[name] = text
		} else {
			wrong = append(wrong, fmt.Errorf("%s: there is no such setting", variable))
		}
	}
	return found, wrong
}

// lookup finds a variable that is set and not empty.
func lookup(environ []string, variable string) (string, bool) {
	for _, entry := range slices.Backward(environ) {
		if name, text, _ := strings.Cut(entry, "="); name == variable {
			return text, text != ""
		}
	}
	return "", false
}

// defaultDataDir is empty when there is no home directory.
func defaultDataDir(environ []string) string {
	if data, ok := lookup(environ, "XDG_DATA_HOME"); ok && filepath.IsAbs(data) {
		return filepath.Join(data, "frostpin")
	}
	if home, ok := lookup(environ, "HOME"); ok {
		return filepath.Join(home, ".local", "share", "frostpin")
	}
	return ""
}

// applyFile sets what a YAML file says. named tells whether it was named, not found in the data directory.
func (l *loaded) applyFile(path string, content []byte, named bool) (wrong []error) {
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return []error{fmt.Errorf("%s: %w", path, err)}
	}
	if len(document.Content) == 0 {
		return nil // nothing but comments
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s: it is not a list of settings, one `name: value` per line", path)}
	}
	byName := make(map[string]setting)
	for _, s := range settings() {
		byName[s.name] = s
	}
	seen := make(map[string]bool)
	for pair := range slices.Chunk(root.Content, 2) {
		key, value := pair[0], pair[1]
		source := fmt.Sprintf("%s line %d, %s", path, key.Line, key.Value)
		s, known := byName[key.Value]
		texts, err := scalars(value)
		switch {
		case !known:
			wrong = append(wrong, fmt.Errorf("%s: there is no such setting", source))
		case seen[key.Value]:
			wrong = append(wrong, fmt.Errorf("%s: it stands in this file twice", source))
		case key.Value == "data-dir" && !named:
			wrong = append(wrong, fmt.Errorf("%s: this file was found through data-dir and cannot set it", source))
		case err != nil:
			wrong = append(wrong, fmt.Errorf("%s: %w", source, err))
		case texts != nil: // a name without a value decides nothing
			wrong = l.apply(wrong, s, source, texts...)
		}
		seen[key.Value] = true
	}
	return wrong
}

// scalars returns the texts of a plain value or of a list of them; nil for null.
func scalars(value *yaml.Node) ([]string, error) {
	wrong := errors.New("it must be a plain value or a list of plain values")
	switch value.Kind {
	case yaml.ScalarNode:
		if value.Tag == "!!null" {
			return nil, nil
		}
		return []string{value.Value}, nil
	case yaml.SequenceNode:
		texts := make([]string, 0, len(value.Content))
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, wrong
			}
			texts = append(texts, item.Value)
		}
		return texts, nil
	}
	return nil, wrong
}

// A settingsError lists what is wrong, one problem per line.
type settingsError struct{ problems error }

func (e *settingsError) Error() string {
	return "some settings are wrong:\n  " + strings.ReplaceAll(e.problems.Error(), "\n", "\n  ")
}

func (e *settingsError) Unwrap() error { return e.problems }

// A textFlag keeps what was written, so that a wrong value is named together with all others.
type textFlag struct{ text string }

func (f *textFlag) String() string        { return f.text }
func (f *textFlag) Set(text string) error { f.text = text; return nil }
func (f *textFlag) Type() string          { return "value" }

// addFlags declares the flags of settings for which want is true.
func addFlags(flags *pflag.FlagSet, want func(setting) bool) {
	for _, s := range settings() {
		if !want(s) {
			continue
		}
		flag := flags.VarPF(&textFlag{}, s.name, "", s.usage())
		if s.isBool() {
			flag.NoOptDefVal = "true"
		}
	}
}

// usage is the help text with the default.
func (s setting) usage() string {
	if fallback := s.fallback(); fallback != "" {
		return fmt.Sprintf("%s (default: %s)", strings.TrimSuffix(s.help, "."), fallback)
	}
	return strings.TrimSuffix(s.help, ".")
}

// fallback is the default in words.
func (s setting) fallback() string {
	if s.derived != "" {
		return s.derived
	}
	config := defaults()
	text, _ := s.text(&config)
	return text
}
