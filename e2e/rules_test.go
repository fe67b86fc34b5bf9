package e2e_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/frostpin/frostpin"

// A rule is what one package, with those below it, may import of this module; every sentence says why. A package that
// no rule names has no place yet: give it one here, in .golangci.yml and in docs/architecture.md.
type rule struct {
	pkg    string
	may    []string // "*" is everything
	tests  []string // what its tests may import beside that
	reason string
}

var packageRules = []rule{
	{"spec", nil, nil, "the contract is the ground that everything stands on, so it stands on nothing"},
	{"auth", nil, []string{"cmd/database"}, "who may call has nothing to do with what is pinned"},
	{"auth/ledger", nil, []string{"cmd/database"}, "what was used and paid has nothing to do with who may call, or what for"},
	{"auth/events", nil, []string{"cmd/database"}, "what accounts are told does not depend on what it is about, or on how"},
	{"auth/hooks", []string{"auth/events"}, []string{"auth/ledger", "cmd/database", "retrieval"}, "whom to call does not depend on what it is about"},
	{"pins/hot/hold", []string{"pins", "spec"}, []string{"pins/pinstest"}, "how a DAG is walked does not depend on the node that has it"},
	{"pins/pinstest", []string{"pins", "pins/hot/hold", "spec"}, nil, "the model of a tier runs where there is no IPFS node"},
	{"pins/ingest", []string{"deals", "pins", "pins/hot/hold", "spec"}, []string{"cmd/database", "pins/pinstest"}, "uploads become DAGs whatever they came through and whatever keeps them"},
	{"pins/hot", []string{"pins", "pins/hot/hold", "spec"}, []string{"deals", "deals/piece", "pins/ingest", "pins/pinstest"}, "a tier keeps blocks and does not know why"},
	{"pins", []string{"deals", "deals/piece", "spec"}, []string{"auth", "cmd/database", "deals/dealstest", "pins/pinstest"}, "the rules of pinning know no HTTP, no tokens and no Kubo"},
	{"deals/piece", nil, []string{"pins/hot", "pins"}, "a piece is bytes and their commitment; it does not know who stores it"},
	{"deals/mk12/wire", nil, nil, "what goes over the wire is the same for both sides, so it belongs to neither"},
	{"deals/mk12", []string{"deals", "deals/piece", "deals/mk12/wire"}, nil, "a protocol is spoken without knowing what for"},
	{"deals/chain", []string{"deals", "deals/piece"}, []string{"deals/devnet", "deals/mk12/wire"}, "the node is behind the interface that deals declares"},
	{"deals/receipt", []string{"deals", "deals/piece"}, nil, "who checks a receipt trusts nothing of the service that gave it"},
	{"deals/devnet", []string{"deals/piece", "deals/mk12/wire"}, nil, "a devnet that knew the service could take short cuts for it"},
	{"deals/dealstest", []string{"deals", "deals/piece"}, nil, "the model of a chain runs where there is no node"},
	{"deals", []string{"deals/piece"}, []string{"cmd/database", "deals/dealstest"}, "a deal is about one DAG and does not know who wants it"},
	{"retrieval/deny", nil, nil, "what is denied is denied whoever asks, and wherever it would have come from"},
	{"retrieval", nil, []string{"cmd/database"}, "where bytes come from does not depend on who pinned them"},
	{"server", []string{"auth", "auth/events", "auth/hooks", "auth/ledger", "deals", "pins", "pins/ingest", "retrieval", "spec"}, []string{"cmd/database", "deals/dealstest", "deals/piece", "pins/pinstest", "retrieval/deny"}, "HTTP and nothing else; it does not know what stores or keeps"},
	{"cmd/database", nil, nil, "it opens databases and does not know what is in them"},
	{"cmd/disk", nil, nil, "it looks at file systems and does not know what is in them"},
	{"cmd/bench", []string{"*"}, nil, "it measures the program beside the libraries it stands on"},
	{"cmd/frostpin", []string{"*"}, nil, "it wires everything and is the only one that knows every concrete type"},
	{"e2e", nil, nil, "a stranger has the binary and the contract, nothing else"},
}

// An outside rule is where a name of the outside world may be imported.
type outside struct {
	prefix string
	where  func(pkg, file string) bool
	reason string
}

var outsideRules = []outside{
	{"gorm.io/", inStores, "rows and SQL stay in store.go and migrate.go"},
	{"github.com/go-gormigrate/", inStores, "rows and SQL stay in store.go and migrate.go"},
	{"github.com/labstack/echo/", func(pkg, _ string) bool { return under(pkg, "server") || under(pkg, "cmd/bench") }, "only server speaks HTTP to clients"},
	{"github.com/ipfs/kubo/", func(pkg, _ string) bool {
		return pkg == "pins/hot" || under(pkg, "retrieval") || under(pkg, "cmd/bench")
	}, "Kubo is one of several hot tiers"},
	{"github.com/ipfs-shipyard/nopfs/", func(pkg, _ string) bool { return pkg == "retrieval/deny" }, "a denylist is asked, not read, by those who obey it"},
	{"github.com/filecoin-project/lotus/", inNodes, "the chain is behind the interface that deals declares"},
	{"github.com/filecoin-project/go-jsonrpc/", inNodes, "the chain is behind the interface that deals declares"},
	{"github.com/filecoin-project/filecoin-ffi/", nowhere, "it needs a Rust library that go build cannot make"},
	{"github.com/filecoin-project/lotus/lib/sigs/bls/", nowhere, "it pulls filecoin-ffi in"},
}

// inNodes allows what speaks to a Filecoin node, or is one.
func inNodes(pkg, _ string) bool {
	return under(pkg, "deals/chain") || under(pkg, "deals/devnet") || under(pkg, "deals/receipt") || under(pkg, "cmd/bench")
}

func nowhere(_, _ string) bool { return false }

// inStores allows the files that hold rows. A package may have several, such as store.go and store_pins.go.
func inStores(pkg, file string) bool {
	return under(pkg, "cmd") || strings.HasPrefix(file, "store") || strings.HasPrefix(file, "migrate") || strings.HasSuffix(file, "_test.go")
}

func under(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// A listedPackage is what `go list -json` says of one package.
type listedPackage struct {
	Dir, ImportPath                                              string
	GoFiles, CgoFiles, IgnoredGoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports                           []string
}

func (p listedPackage) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = ".."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the packages: %v\n%s", err, stderr.String())
	}
	var all []listedPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p listedPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages are listed", len(all))
	}
	return all
}

// ruleFor returns the rule with the longest matching name.
func ruleFor(pkg string) (found rule, ok bool) {
	for _, r := range packageRules {
		if under(pkg, r.pkg) && len(r.pkg) > len(found.pkg) {
			found, ok = r, true
		}
	}
	return found, ok
}

// allowed reports whether pkg, with its rule, may import another package of this module.
func (r rule) allowed(imported string, test bool) bool {
	allow := append(slices.Clone(r.may), r.pkg)
	if test {
		allow = append(allow, r.tests...)
	}
	if slices.Contains(allow, "*") {
		return true
	}
	target, ok := ruleFor(imported)
	return ok && slices.Contains(allow, target.pkg)
}

func TestPackagesKeepTheirDistance(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := ruleFor(p.name())
		if !ok {
			t.Errorf("package %q has no place: only %v may hold Go code", p.name(), places())
			continue
		}
		check := func(imports []string, test bool) {
			for _, path := range imports {
				if imported, ours := strings.CutPrefix(path, module+"/"); ours && !r.allowed(imported, test) {
					t.Errorf("%s (tests: %t) imports %s: %s", p.name(), test, imported, r.reason)
				}
			}
		}
		check(p.Imports, false)
		check(p.TestImports, true)
		check(p.XTestImports, true)
	}
}

func places() (names []string) {
	for _, r := range packageRules {
		names = append(names, r.pkg)
	}
	return names
}

// Without this a rule that forbids nothing would go unnoticed.
func TestRulesForbidWhatTheySay(t *testing.T) {
	for _, test := range []struct {
		pkg, imports string
		test, want   bool
	}{
		{"spec", "pins", false, false},
		{"auth", "spec", false, false},
		{"auth", "cmd/database", false, false},
		{"auth", "cmd/database/databasetest", true, true},
		{"auth/ledger", "auth", true, false},
		{"auth/ledger", "pins", false, false},
		{"auth", "auth/ledger", false, false},
		{"auth/events", "auth", true, false},
		{"auth/events", "pins", false, false},
		{"auth/hooks", "auth/events", false, true},
		{"auth/hooks", "auth/ledger", false, false},
		{"pins", "spec", false, true},
		{"pins", "auth", false, false},
		{"pins", "pins/hot", true, false},
		{"pins/hot", "pins", false, true},
		{"pins/hot", "server", false, false},
		{"pins/hot/hold", "pins/hot", false, false},
		{"pins/pinstest", "pins/hot", false, false},
		{"pins/hot", "pins/pinstest", false, false},
		{"pins/hot", "pins/pinstest", true, true},
		{"deals", "pins", false, false},
		{"deals", "deals/piece", false, true},
		{"deals", "deals/chain", true, false},
		{"deals/devnet", "deals", true, false},
		{"deals/devnet/sp", "deals/mk12/wire", false, true},
		{"deals/mk12/wire", "deals", false, false},
		{"deals/piece", "deals", false, false},
		{"pins", "deals", false, true},
		{"server", "deals/chain", false, false},
		{"server", "pins", false, true},
		{"server", "retrieval/deny", false, false},
		{"retrieval/deny", "retrieval", false, false},
		{"server", "pins/hot", false, false},
		{"server", "pins/ingest", false, true},
		{"pins", "pins/ingest", false, false},
		{"pins/ingest", "pins/hot", false, false},
		{"server", "cmd/database", false, false},
		{"cmd/frostpin", "pins/hot", false, true},
		{"e2e", "spec", true, false},
	} {
		r, ok := ruleFor(test.pkg)
		if !ok || r.allowed(test.imports, test.test) != test.want {
			t.Errorf("%s imports %s (tests: %t): allowed is not %t", test.pkg, test.imports, test.test, test.want)
		}
	}
	for _, pkg := range []string{"util", "internal/x", ""} {
		if _, ok := ruleFor(pkg); ok {
			t.Errorf("package %q has a place", pkg)
		}
	}
}

// .ci/run goes further only with the tests that .ci/long names. Of those end to end it looks closely at what .ci/raced names,
// and of the others at all but what .ci/unraced names.
func TestEveryTestThatCanBeLongIsRunSo(t *testing.T) {
	var all, long []string
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			all = append(all, f.Name.Name)
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if ok && fmt.Sprint(call.Fun) == "long" && !slices.Contains(long, f.Name.Name) {
					long = append(long, f.Name.Name)
				}
				return true
			})
		}
	}
	slices.Sort(long)
	if got := namesIn(t, "../.ci/long"); !slices.Equal(got, long) {
		t.Errorf(".ci/long names %q, those that ask long() are %q", got, long)
	}
	for _, name := range namesIn(t, "../.ci/raced") {
		if !slices.Contains(all, name) {
			t.Errorf(".ci/raced names %s, which is no test", name)
		}
	}
	var simulations strings.Builder
	files, err = filepath.Glob("../deals/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		simulations.Write(text)
	}
	for _, name := range namesIn(t, "../.ci/unraced") {
		if !strings.Contains(simulations.String(), "\nfunc "+name+"(t *testing.T) {") {
			t.Errorf(".ci/unraced names %s, which is no test of deals", name)
		}
	}
}

func namesIn(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// What the linters also say, for machines without them.
func TestFilesImportAndCallOnlyWhatTheyMay(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.TestGoFiles, p.XTestGoFiles, p.IgnoredGoFiles) {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			for _, spec := range file.Imports {
				path := strings.Trim(spec.Path.Value, `"`)
				for _, rule := range outsideRules {
					if strings.HasPrefix(path+"/", rule.prefix) && !rule.where(p.name(), name) {
						t.Errorf("%s: imports %s: %s", fset.Position(spec.Pos()), path, rule.reason)
					}
				}
			}
			if strings.HasSuffix(name, ".gen.go") {
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && n.Sel.Name == "Sleep" {
						t.Errorf("%s: sleeps; wait for a signal, or poll until a deadline", fset.Position(n.Pos()))
					}
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s: init runs whether it is wanted or not; call it from cmd", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}
