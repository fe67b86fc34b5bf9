package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/frostpin/frostpin/auth"
)

// loadWith loads the settings from a file's content, variables and flags.
func loadWith(t *testing.T, file string, environ []string, args ...string) (*loaded, error) {
	t.Helper()
	home := t.TempDir()
	if file != "" {
		dir := filepath.Join(home, ".local", "share", "frostpin")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, configFile), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.Var(&textFlag{}, configFlag, "")
	addFlags(flags, func(setting) bool { return true })
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return load(append([]string{"HOME=" + home}, environ...), flags)
}

func TestDefaultsAreAcceptable(t *testing.T) {
	l, err := loadWith(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.sources) != 0 || l.file != "" {
		t.Errorf("somebody has decided: %v, file %q", l.sources, l.file)
	}
	if got, want := string(l.Database), filepath.Join(l.DataDir, "frostpin.db"); got != want {
		t.Errorf("the database is %s, want %s", got, want)
	}
}

func TestEverySettingHasANameAHelpTextAndAField(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range settings() {
		if s.name == "" || seen[s.name] || strings.ToLower(s.name) != s.name || !strings.HasSuffix(s.help, ".") {
			t.Errorf("setting %+v", s)
		}
		seen[s.name] = true
		// What a setting prints, it reads.
		config := defaults()
		text, _ := s.text(&config)
		var again Config
		if err := s.set(&again, text); err != nil {
			t.Errorf("%s does not read its own default %q: %v", s.name, text, err)
		}
		if diff := cmp.Diff(s.in(&config).Interface(), s.in(&again).Interface()); diff != "" {
			t.Errorf("%s: %s", s.name, diff)
		}
	}
}

func TestStrongerSourceWins(t *testing.T) {
	const file = "listen: 127.0.0.1:1\nlog-level: warn\nfetch-slots: 1\nannounce: [/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.4/tcp/2]\n"
	environ := []string{"FROSTPIN_LISTEN=127.0.0.1:2", "FROSTPIN_FETCH_SLOTS=2", "FROSTPIN_SWARM_LISTEN=/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2"}
	l, err := loadWith(t, file, environ, "--listen", "127.0.0.1:3", "--metrics-public", "--max-dag-bytes=1GiB")
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.DataDir, want.Database = l.DataDir, l.Database
	want.Listen = "127.0.0.1:3"    // flag over variable over file
	want.FetchSlots = 2            // variable over file
	want.LogLevel = slog.LevelWarn // file over default
	want.PublicMetrics = true      // a flag without a value
	want.MaxDAGBytes = 1 << 30     // with a unit
	want.GCInterval = defaults().GCInterval
	want.Announce = []string{"/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"}
	want.SwarmListen = []string{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"}
	if diff := cmp.Diff(want, l.Config); diff != "" {
		t.Error(diff)
	}
	if l.sources["listen"] != "--listen" || l.sources["fetch-slots"] != "FROSTPIN_FETCH_SLOTS" || !strings.Contains(l.sources["log-level"], "line 2") {
		t.Errorf("sources: %v", l.sources)
	}
}

func TestAllWrongSettingsAreNamedAtOnce(t *testing.T) {
	const file = `listen: nowhere
no-such-setting: 1
log-format: [text, json]
gc-interval: often
fetch-slots: 1
fetch-slots: 2
data-dir: /elsewhere
`
	environ := []string{"FROSTPIN_MAX_DAG_BYTES=many", "FROSTPIN_LISTENN=x", "FROSTPIN_NETWORK=neither", "FROSTPIN_TEST_POSTGRES=x", "FROSTPIN_SERVICE_HOST=10.0.0.1", "FROSTPIN_PORT_7420_TCP=tcp://10.0.0.1:7420"}
	_, err := loadWith(t, file, environ, "--log-level=loud", "--hot=remote", "--fetch-stall=1s", "--database=mysql://u:hunter2@h/d",
		"--base-path=psa", "--public-url=https://example.org/psa/pins", "--announce=here,there", "--max-dag-depth=0")
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	for _, want := range []string{
		`line 1, listen`, `line 2, no-such-setting: there is no such setting`, `line 3, log-format`, `line 4, gc-interval: "often"`,
		`line 6, fetch-slots: it stands in this file twice`, `line 7, data-dir`,
		`FROSTPIN_MAX_DAG_BYTES: "many"`, `FROSTPIN_LISTENN: there is no such setting`, `network: "neither" is not one of public, private`,
		`--log-level: "loud"`, `hot-url: hot is remote`, `fetch-stall`, `database: `, `base-path: `, `public-url: `, `announce: `, `max-dag-depth: `,
	} {
		if want == "line 1, listen" {
			want = `listen: "nowhere"` // readable text, wrong only as an address
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s", want)
		}
	}
	for _, unwanted := range []string{"hunter2", "TEST_POSTGRES", "SERVICE_HOST", "7420_TCP"} {
		if strings.Contains(err.Error(), unwanted) {
			t.Errorf("named: %s", unwanted)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestEachOfTheseSettingsIsRefusedByName(t *testing.T) {
	for _, args := range [][]string{
		{"--listen=127.0.0.1"},
		{"--listen=127.0.0.1:70000"},
		{"--listen=127.0.0.1:http"},
		{"--base-path=/psa/pins"},
		{"--retrieval-private=10.0.0.1"},
		{"--ipni-url=cid.contact"},
		{"--probe-pace=-1s"},
		{"--max-connections=0"},
		{"--tls-key=", "--tls-cert=x"},
		{"--tls-domains=a.example", "--tls-cert=x", "--tls-key=y"},
		{"--tls-domains=localhost"},
		{"--tls-domains=192.0.2.1"},
		{"--tls-domains=*.example.org"},
		{"--acme-directory=x"},
		{"--acme-email=x"},
		{"--listen-http=:80"},
		{"--listen-http=80", "--tls-domains=a.example"},
		{"--disk-watermark=101"},
		{"--disk-reserve=-1"},
		{"--max-connections-per-address=0"},
		{"--trusted-proxies=10.0.0.1"},
		{"--signup=open"},
		{"--base-path=/docs"},
		{"--public-url=ftp://x"},
		{"--public-url=https://user@x/psa"},
		{"--public-url=x"},
		{"--database=:memory:"},
		{"--swarm-listen=/ip4/0.0.0.0/tcp/1", "--network=private"},
		{"--swarm-listen=4001"},
		{"--connections-high=1"},
		{"--connections-low=0"},
		{"--hot-url=http://127.0.0.1:5001"},
		{"--hot-url=/ip4/127.0.0.1/tcp/5001", "--hot=remote"},
		{"--hot-authorization=x"},
		{"--hot-datastore=badger"},
		{"--max-dag-bytes=9999999999GiB"},
		{"--max-block-size=-1"},
		{"--max-block-size=4MiB"},
		{"--find-roots=0"},
		{"--retry-max=1s"},
		{"--retain-replaced=-1s"},
		{"--gc-interval=-1s"},
		{"--fetch-idle=0s"},
		{"--shutdown-timeout=0s"},
		{"--log-format=xml"},
		{"--metrics-public=perhaps"},
		{"--data-dir="},
	} {
		name, _, _ := strings.Cut(strings.TrimPrefix(args[0], "--"), "=")
		_, err := loadWith(t, "", nil, args...)
		if _, ok := errors.AsType[*settingsError](err); !ok || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

func TestPrivateNetworkAllowsPrivateOriginsUnlessSomebodySaysNo(t *testing.T) {
	for _, test := range []struct {
		args []string
		want bool
	}{
		{nil, false},
		{[]string{"--network=private"}, true},
		{[]string{"--network=private", "--allow-private-origins=false"}, false},
		{[]string{"--allow-private-origins"}, true},
	} {
		l, err := loadWith(t, "", nil, test.args...)
		if err != nil {
			t.Fatal(err)
		}
		if l.AllowPrivateOrigins != test.want {
			t.Errorf("%v: got %v", test.args, l.AllowPrivateOrigins)
		}
	}
}

func TestNamedFileMustExistAndMaySetTheDataDirectory(t *testing.T) {
	if _, err := loadWith(t, "", []string{"FROSTPIN_CONFIG=/no/such/file"}); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("got %v", err)
	}
	path := filepath.Join(t.TempDir(), "some.yaml")
	if err := os.WriteFile(path, []byte("data-dir: /srv/frostpin\nnetwork: private\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := loadWith(t, "network: public\n", nil, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	if l.DataDir != "/srv/frostpin" || l.Network != "private" || l.file != path {
		t.Errorf("data-dir %s, network %s, file %s", l.DataDir, l.Network, l.file)
	}
}

func TestShownSettingsReadBackTheSameWithoutTheSecrets(t *testing.T) {
	args := []string{
		"--hot=remote", "--hot-url=http://127.0.0.1:5001", "--hot-authorization=Bearer hunter2", "--network=private",
		"--database=postgres://user:hunter2@localhost/frostpin", "--announce=/dns4/a.example/tcp/1,/dns4/b.example/tcp/1",
		"--public-url=https://pins.example/#x"[:27], "--max-dag-bytes=5TiB", "--fetch-deadline=90m", "--log-level=debug", "--metrics-public",
	}
	l, err := loadWith(t, "", nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	if err := l.writeYAML(&shown); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(shown.String(), "hunter2") {
		t.Errorf("a secret is shown:\n%s", shown.String())
	}
	path := filepath.Join(t.TempDir(), "shown.yaml")
	if err := os.WriteFile(path, []byte(shown.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := loadWith(t, "", nil, "--config", path, "--data-dir", l.DataDir)
	if err != nil {
		t.Fatalf("%v\n%s", err, shown.String())
	}
	want := l.Config
	want.HotAuthorization = ""
	want.Database = again.Database // it held a password
	if diff := cmp.Diff(want, again.Config, cmp.Comparer(func(a, b auth.Secret) bool { return a == b })); diff != "" {
		t.Errorf("%s\n%s", diff, shown.String())
	}
}

func TestSizesAndTimesAreWrittenAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "2KiB": 2048, "2k": 2048, "3 MiB": 3 << 20, "32GiB": 32 << 30, "1T": 1 << 40, "1B": 1, "7pib": 7 << 50,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "1GB", "1XiB", "99999999999999999999", "8192PiB", "1 1", "--1"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", 90 * time.Minute: "1h30m", time.Minute: "1m", 10 * time.Second: "10s", 0: "0s", 100 * time.Minute: "1h40m",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestEndpointIsWhatClientsCanPaste(t *testing.T) {
	for _, test := range []struct{ args, listening, want string }{
		{"", "127.0.0.1:7420", "http://127.0.0.1:7420/psa"},
		{"--listen=:0", "[::]:4567", "http://127.0.0.1:4567/psa"},
		{"--listen=0.0.0.0:0", "0.0.0.0:4567", "http://127.0.0.1:4567/psa"},
		{"--base-path=/", "127.0.0.1:1", "http://127.0.0.1:1"},
		{"--public-url=https://pins.example.org/a/", "127.0.0.1:1", "https://pins.example.org/a"},
		{"--tls-domains=pins.example.org,www.example.org", "0.0.0.0:443", "https://pins.example.org/psa"},
		{"--tls-domains=pins.example.org", "0.0.0.0:8443", "https://pins.example.org:8443/psa"},
		{"--tls-cert=a --tls-key=b", "127.0.0.1:1", "https://127.0.0.1:1/psa"},
	} {
		l, err := loadWith(t, "", nil, strings.Fields(test.args)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Endpoint(test.listening); got != test.want {
			t.Errorf("%s: got %s, want %s", test.args, got, test.want)
		}
	}
}

func FuzzSettingsFile(f *testing.F) {
	for _, seed := range []string{
		"", "# nothing\n", "null", "[]", "a: b", "listen: 127.0.0.1:1\n", "announce: [a, b]\n", "announce: {a: b}\n",
		"listen: &a x\nhot: *a\n", "? [a]\n: b\n", "fetch-slots: 0x10\n", "gc-interval: ~\n", "log-level: !!binary aGk=\n", "\xff", "a: b\n---\nc: d\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l := &loaded{Config: defaults(), sources: make(map[string]string)}
		wrong := l.applyFile("fuzzed.yaml", content, true)
		if slices.Contains(wrong, nil) {
			t.Error("a nil problem")
		}
		_ = l.Validate()
		var shown strings.Builder
		if err := l.writeYAML(&shown); err != nil {
			t.Fatal(err)
		}
		again := &loaded{Config: defaults(), sources: make(map[string]string)}
		if wrong := again.applyFile("shown.yaml", []byte(shown.String()), true); len(wrong) > 0 {
			t.Errorf("what is shown is not read back: %v\n%s", wrong, shown.String())
		}
	})
}
