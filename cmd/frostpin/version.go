package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A build is what this program was made of.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Kubo     string `json:"kubo,omitempty"`
	Platform string `json:"platform"`
}

// thisBuild asks the build information that Go puts into every binary.
func thisBuild() build {
	b := build{Version: "development", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/ipfs/kubo" {
			b.Kubo = dep.Version
		}
	}
	return b
}

func (p *program) versionCommand() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b := thisBuild()
			if wantsJSON(c) {
				return printJSON(p.stdout, b)
			}
			_, err := fmt.Fprintf(p.stdout, "frostpin %s\n%s, %s, Kubo %s\n", b.Version, b.Platform, b.Go, b.Kubo)
			return err
		},
	})
}
