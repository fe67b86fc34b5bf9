package hot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	fslock "github.com/ipfs/go-fs-lock"
	logging "github.com/ipfs/go-log/v2"
	"github.com/ipfs/kubo/config"
	serialize "github.com/ipfs/kubo/config/serialize"
	"github.com/ipfs/kubo/plugin"
	"github.com/ipfs/kubo/plugin/plugins/flatfs"
	"github.com/ipfs/kubo/plugin/plugins/levelds"
	"github.com/ipfs/kubo/repo"
	"github.com/ipfs/kubo/repo/fsrepo"
	"github.com/libp2p/go-libp2p/gologshim"
)

// lockName is the file that keeps a second Frostpin out, also one in this process: Kubo would hand that one the
// repository that is already open.
const lockName = "frostpin.lock"

// prepareKubo does what concerns the whole process, once. Kubo's plugin loader would do it too, but it also loads
// executables from the repository, denylists from the user's home, and telemetry (H15), and it can run only once for
// one repository. The three stores are all we need of it.
var prepareKubo = sync.OnceValue(func() error {
	quiet()
	fewArenas()
	if err := fsrepo.AddDatastoreConfigHandler(Pebble, parsePebble); err != nil {
		return fmt.Errorf("registering the datastore %s: %w", Pebble, err)
	}
	for _, p := range []plugin.Plugin{flatfs.Plugins[0], levelds.Plugins[0]} {
		store, ok := p.(plugin.PluginDatastore)
		if !ok {
			return fmt.Errorf("kubo's plugin %s is no datastore", p.Name())
		}
		if err := fsrepo.AddDatastoreConfigHandler(store.DatastoreTypeName(), store.DatastoreConfigParser()); err != nil {
			return fmt.Errorf("registering kubo's datastore %s: %w", store.DatastoreTypeName(), err)
		}
	}
	return nil
})

// quiet silences the more than hundred loggers of Kubo and libp2p: what matters reaches us as an error, and the rest is
// for developers, who ask for it with GOLOG_LOG_LEVEL.
func quiet() {
	gologshim.SetDefaultHandler(logging.SlogHandler())
	if c := logging.GetConfig(); c.Level == logging.LevelError && len(c.SubsystemLevels) == 0 { // nobody has asked
		c.Level = logging.LevelFatal
		logging.SetupLogging(c)
	}
}

// A repository is an open Kubo repository that no one else can open.
type repository struct {
	repo.Repo
	config *config.Config
	unlock func() error
}

// openRepository creates the repository if there is none, and writes the settings into it.
func openRepository(cfg Config) (_ *repository, err error) {
	if err := prepareKubo(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the node's directory: %w", err)
	}
	lock, err := fslock.Lock(cfg.Dir, lockName)
	if err != nil {
		return nil, fmt.Errorf("the repository %s is in use by another process: %w", cfg.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := createRepository(cfg); err != nil {
		return nil, err
	}
	dir := filepath.Clean(cfg.Dir)
	storeLogs.Store(dir, cfg.Log)
	defer storeLogs.Delete(dir)
	r, err := fsrepo.Open(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the repository %s: %w", cfg.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	old, err := r.Config()
	if err != nil {
		return nil, fmt.Errorf("reading the repository's settings: %w", err)
	}
	if made := profileOf(old.Datastore.Spec); made != cfg.Profile {
		return nil, fmt.Errorf("the repository %s was made with %s and cannot become %s", cfg.Dir, made, cfg.Profile)
	}
	k, err := cfg.repository(old.Identity, old.Datastore.Spec)
	if err != nil {
		return nil, err
	}
	// SetConfig alone would merge ours into the file, so that a setting once made could not be unmade.
	if err := serialize.WriteConfigFile(filepath.Join(cfg.Dir, "config"), k); err != nil {
		return nil, fmt.Errorf("writing the repository's settings: %w", err)
	}
	if err := r.SetConfig(k); err != nil {
		return nil, fmt.Errorf("taking the repository's settings: %w", err)
	}
	return &repository{Repo: r, config: k, unlock: lock.Close}, nil
}

// createRepository makes a repository unless there is one. Kubo takes a directory with a config for a repository,
// though it writes a version after that; so a mark stands in the directory until everything is there.
func createRepository(cfg Config) error {
	mark := filepath.Join(cfg.Dir, "frostpin.creating")
	switch _, err := os.Stat(mark); {
	case err == nil: // a start was killed half way: nothing was ever stored here
		for _, name := range []string{"config", "datastore_spec", "version"} {
			if err := os.RemoveAll(filepath.Join(cfg.Dir, name)); err != nil {
				return fmt.Errorf("removing a repository that was never finished: %w", err)
			}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking at the repository %s: %w", cfg.Dir, err)
	case fsrepo.IsInitialized(cfg.Dir):
		return nil
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("beginning the repository %s: %w", cfg.Dir, err)
	}
	id, err := newIdentity()
	if err != nil {
		return err
	}
	layout, err := store(cfg.Profile)
	if err != nil {
		return err
	}
	k, err := cfg.repository(id, layout)
	if err != nil {
		return err
	}
	if err := fsrepo.Init(cfg.Dir, k); err != nil {
		return fmt.Errorf("creating the repository %s: %w", cfg.Dir, err)
	}
	if err := os.Remove(mark); err != nil {
		return fmt.Errorf("finishing the repository %s: %w", cfg.Dir, err)
	}
	return nil
}
