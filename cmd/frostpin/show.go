package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/frostpin/frostpin/auth"
)

func (p *program) configCommand() *cobra.Command {
	return group("config", "Show the settings", withAllSettings(withJSON(&cobra.Command{
		Use:   "show",
		Short: "Print every setting with its value, as a file that can be used again",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := p.settings(c)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(p.stdout, settings.lines())
			}
			return settings.writeYAML(p.stdout)
		},
	})))
}

// A settingLine is a setting as `config show --json` prints it.
type settingLine struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Help   string `json:"help"`
}

func (l *loaded) lines() []settingLine {
	var lines []settingLine
	for _, s := range settings() {
		text, _ := s.text(&l.Config)
		source, ok := l.sources[s.name]
		if !ok {
			source = "default"
		}
		lines = append(lines, settingLine{Name: s.name, Value: text, Source: source, Help: s.help})
	}
	return lines
}

// writeYAML writes the settings as a commented file. What is a default stands in it as a comment, so that a copy of
// the file keeps following the defaults; so does what was hidden, which is no value.
func (l *loaded) writeYAML(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# The settings of Frostpin. Lines behind a # are defaults; remove the # to decide otherwise.\n")
	if l.file != "" {
		fmt.Fprintf(&b, "# Read from %s.\n", l.file)
	}
	for _, s := range settings() {
		fmt.Fprintf(&b, "\n# %s\n", s.help)
		if s.derived != "" {
			fmt.Fprintf(&b, "# Default: %s.\n", s.derived)
		}
		line, err := s.line(&l.Config)
		if err != nil {
			return err
		}
		_, hidden := s.text(&l.Config)
		source := l.sources[s.name]
		switch {
		case source == "":
			fmt.Fprintf(&b, "#%s\n", line)
		case hidden:
			fmt.Fprintf(&b, "# Set by %s and not shown.\n#%s\n", source, line)
		default:
			fmt.Fprintf(&b, "# Set by %s.\n%s\n", source, line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line is the setting in YAML. Numbers, times and sizes are plain words; text is quoted where it must be, and a list
// in JSON is one in YAML too.
func (s setting) line(c *Config) (string, error) {
	text, _ := s.text(c)
	var encoded []byte
	var err error
	switch value := s.in(c).Interface().(type) {
	case []string:
		if encoded = []byte("[]"); len(value) > 0 {
			encoded, err = json.Marshal(value)
		}
	case string, DSN, auth.Secret:
		encoded, err = yaml.Marshal(text)
	default:
		encoded = []byte(text)
	}
	if err != nil {
		return "", fmt.Errorf("printing the setting %s: %w", s.name, err)
	}
	return s.name + ": " + strings.TrimSuffix(string(encoded), "\n"), nil
}

// writeMarkdown writes docs/settings.md. A test compares the file with it.
func writeMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Settings

Every setting can be given in four places. The later is the stronger: its default, a line in the settings file, an
environment variable, a flag of ` + "`frostpin serve`" + `.

The file is ` + "`frostpin.yaml`" + ` in the data directory, or the one that ` + "`--config`" + ` or ` + "`FROSTPIN_CONFIG`" + ` names. ` + "`frostpin config show`" + `
prints one with every setting and its present value. Lists are separated by commas, in the file also written as YAML
lists. Sizes take KiB, MiB, GiB and TiB; times take s, m and h. Whatever is wrong is named, all at once, before
anything starts; that includes names that do not exist.

| Setting and flag | Variable | Default | Meaning |
|---|---|---|---|
`)
	for _, s := range settings() {
		fallback := "–"
		if s.derived != "" {
			fallback = strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(s.derived)
		} else if text := s.fallback(); text != "" {
			fallback = "`" + text + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", s.name, s.variable(), fallback, s.help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
