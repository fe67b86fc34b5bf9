package spec_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

const (
	v0     = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
	v1     = "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku" // v0 in base32
	rawCID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
)

var all = []spec.Status{spec.Queued, spec.Pinning, spec.Pinned, spec.Failed}

// list reads a query the way the server does: canonical form, generated binding, rules. The binding itself lives in
// package server; bind stands in for it and is checked against it there.
func list(raw string) (spec.Query, error) {
	canonical, err := spec.CanonicalQuery(raw)
	if err != nil {
		return spec.Query{}, err
	}
	return spec.NewQuery(bind(canonical))
}

func TestListQueryRules(t *testing.T) {
	for _, c := range []struct {
		rule, query string
		want        func(q *spec.Query) // changes from the default
		problem     string              // what the error must contain
	}{
		{rule: "R20 R24 defaults", query: ""},
		{rule: "R7 unknown ignored", query: "foo=bar&metax=1&%20=2&&=&limit=10"},
		{rule: "R7 repeated scalar takes the first", query: "limit=5&limit=6&name=a&name=b&match=exact&match=x", want: func(q *spec.Query) {
			q.Limit, q.Name, q.Statuses = 5, new("a"), all
		}},
		{rule: "R7", query: "cid=", problem: "cid"},
		{rule: "R7", query: "status=", problem: "status"},
		{rule: "R7", query: "status", problem: "status"},
		{rule: "R7", query: "before=", problem: "before"},
		{rule: "R7", query: "after=", problem: "after"},
		{rule: "R7", query: "limit=", problem: "limit"},
		{rule: "R7", query: "meta=", problem: "meta"},
		{rule: "R7", query: "match=", problem: "match"},
		{rule: "R7 empty name is absent", query: "name="},
		{rule: "R15 malformed escape", query: "name=%zz", problem: "name"},
		{rule: "R15 malformed escape in a key", query: "%zz=1", problem: "query"},

		{rule: "R20", query: "limit=1", want: func(q *spec.Query) { q.Limit = 1 }},
		{rule: "R20", query: "limit=1000", want: func(q *spec.Query) { q.Limit = 1000 }},
		{rule: "R20", query: "limit=0", problem: "limit"},
		{rule: "R20", query: "limit=1001", problem: "limit"},
		{rule: "R20", query: "limit=-1", problem: "limit"},
		{rule: "R20", query: "limit=%2B5", problem: "limit"},
		{rule: "R20", query: "limit=1e2", problem: "limit"},
		{rule: "R20", query: "limit=10.0", problem: "limit"},
		{rule: "R20", query: "limit=99999999999999999999", problem: "limit"},

		{rule: "R22 whole seconds", query: "before=2026-01-31T12:00:00Z", want: before("2026-01-31T12:00:00.000Z")},
		{rule: "R22 one digit", query: "before=2026-01-31T12:00:00.1Z", want: before("2026-01-31T12:00:00.100Z")},
		{rule: "R22 before rounds up", query: "before=2026-01-31T12:00:00.000000001Z", want: before("2026-01-31T12:00:00.001Z")},
		{rule: "R22 after rounds down", query: "after=2026-01-31T12:00:00.000999999Z", want: after("2026-01-31T12:00:00.000Z")},
		{rule: "R22 before 1970 too", query: "after=1969-12-31T23:59:59.9995Z&before=1969-12-31T23:59:59.9985Z", want: func(q *spec.Query) {
			q.AfterMS, q.BeforeMS = new(int64(-1)), new(int64(-1))
		}},
		{rule: "R22 offset", query: "before=2026-01-31T14:00:00%2B02:00", want: before("2026-01-31T12:00:00.000Z")},
		{rule: "R22 offset, plus not escaped", query: "before=2026-01-31T14:00:00.5+02:00", want: before("2026-01-31T12:00:00.500Z")},
		{rule: "R22 lower case", query: "before=2026-01-31t12:00:00z", want: before("2026-01-31T12:00:00.000Z")},
		{rule: "R22 year leaves four digits in UTC", query: "before=9999-12-31T23:59:59-12:00", want: func(q *spec.Query) {
			q.BeforeMS = new(time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -12*3600)).UnixMilli())
		}},
		{rule: "R22", query: "before=2026-01-31T12:00:00.1234567890Z", problem: "before"},
		{rule: "R22", query: "before=2026-01-31T12:00:00.Z", problem: "before"},
		{rule: "R22", query: "before=2026-01-31T12:00:00,5Z", problem: "before"},
		{rule: "R22", query: "before=2026-01-31T1:00:00Z", problem: "before"},
		{rule: "R22", query: "before=2026-01-31", problem: "before"},
		{rule: "R22", query: "before=2026-02-30T12:00:00Z", problem: "before"},
		{rule: "R22", query: "before=2026-01-31T12:00:00", problem: "before"},
		{rule: "R22", query: "after=1769860800", problem: "after"},
		{rule: "R22", query: "after=2026-01-31T12:00:00%2B99:00", problem: "after"},
		{rule: "R22 after is checked too", query: "before=2026-01-31T12:00:00Z&after=now", problem: "after"},

		{rule: "R24 other filters keep the default", query: "cid=" + v0, want: func(q *spec.Query) { q.CIDs = cids(v1) }},
		{rule: "R24 match widens", query: "match=partial", want: func(q *spec.Query) { q.Statuses = all }},
		{rule: "R24 match widens only the default", query: "match=partial&status=queued", want: func(q *spec.Query) {
			q.Statuses = []spec.Status{spec.Queued}
		}},
		{rule: "R25 csv", query: "status=queued,failed", want: statuses(spec.Queued, spec.Failed)},
		{rule: "R25 escaped csv", query: "status=queued%2Cfailed", want: statuses(spec.Queued, spec.Failed)},
		{rule: "R25 repeated", query: "status=queued&limit=10&status=failed", want: statuses(spec.Queued, spec.Failed)},
		{rule: "R25 repeated, csv, twice", query: "status=queued,queued&status=failed,queued", want: statuses(spec.Queued, spec.Failed)},
		{rule: "R25", query: "status=bogus", problem: "status"},
		{rule: "R25", query: "status=Pinned", problem: "status"},
		{rule: "R25", query: "status=queued,", problem: "status"},
		{rule: "R25 one empty among others", query: "status=queued&status=", problem: "status"},

		{rule: "R26 spellings are one", query: "cid=" + v0 + "," + v1 + "&cid=" + base58, want: func(q *spec.Query) { q.CIDs = cids(v1) }},
		{rule: "R26 csv and repeated", query: "cid=" + v0 + "%2C" + rawCID, want: func(q *spec.Query) { q.CIDs = cids(v1, rawCID) }},
		{rule: "R26 ten", query: "cid=" + many(10), want: func(q *spec.Query) { q.CIDs = cids(strings.Split(many(10), ",")...) }},
		{rule: "R26 ten distinct", query: "cid=" + many(10) + "," + many(10), want: func(q *spec.Query) { q.CIDs = cids(strings.Split(many(10), ",")...) }},
		{rule: "R26 eleven", query: "cid=" + many(11), problem: "cid"},
		{rule: "R26", query: "cid=nonsense", problem: "cid"},
		{rule: "R26", query: "cid=" + v0 + ",", problem: "cid"},
		{rule: "R26 path", query: "cid=/ipfs/" + v0, problem: "cid"},
		{rule: "R26 costly text", query: "cid=z" + strings.Repeat("1", 5000), problem: "cid"},

		{rule: "R27", query: "name=My+pin%2B", want: func(q *spec.Query) { q.Name = new("My pin+") }},
		{rule: "R27 commas and equal signs", query: "name=name=a,b;c", want: func(q *spec.Query) { q.Name = new("name=a,b;c") }},
		{rule: "R27 255 code points", query: "name=" + strings.Repeat("%F0%9F%98%80", 255), want: func(q *spec.Query) {
			q.Name = new(strings.Repeat("😀", 255))
		}},
		{rule: "R27 256 code points", query: "name=" + strings.Repeat("a", 256), problem: "name"},
		{rule: "R27", query: "name=%ff", problem: "name"},
		{rule: "R27", query: "name=a%00", problem: "name"},
		{rule: "R28", query: "name=%25_\\&match=ipartial", want: func(q *spec.Query) {
			q.Name, q.Match, q.Statuses = new(`%_\`), spec.Ipartial, all
		}},
		{rule: "R28", query: "name=a&match=iexact", want: func(q *spec.Query) { q.Name, q.Match, q.Statuses = new("a"), spec.Iexact, all }},
		{rule: "R28", query: "name=a&match=zzz", problem: "match"},
		{rule: "R28 without name too", query: "match=zzz", problem: "match"},

		{rule: "R29 json", query: `meta=` + url.QueryEscape(`{"a":"1","b":""}`), want: meta("a", "1", "b", "")},
		{rule: "R29 pairs", query: "meta[a]=1&meta%5Bb%5D=", want: meta("a", "1", "b", "")},
		{rule: "R29 pair without a key", query: "meta[]=1", want: meta("", "1")},
		{rule: "R29 repeated pair", query: "meta[a]=1&meta[a]=2", want: meta("a", "1")},
		{rule: "R29 empty object filters nothing", query: "meta={}"},
		{rule: "R29 boxo", query: "meta=map%5Ba:1%5D", problem: "meta"},
		{rule: "R29", query: `meta={"a":1}`, problem: "meta"},
		{rule: "R29", query: `meta={"a":null}`, problem: "meta"},
		{rule: "R29", query: `meta={"a":{"b":"c"}}`, problem: "meta"},
		{rule: "R29", query: `meta=["a"]`, problem: "meta"},
		{rule: "R29", query: `meta=null`, problem: "meta"},
		{rule: "R29", query: `meta={"a":"1"}x`, problem: "meta"},
		{rule: "R29", query: `meta={"a":"1","a":"2"}`, problem: "meta"},
		{rule: "R29 nested pair", query: "meta[a][b]=1", problem: "meta"},
		{rule: "R29 open pair", query: "meta[a=1", problem: "meta"},
		{rule: "R29 both forms", query: "meta[a]=1&meta={}", problem: "meta"},
		{rule: "R29 bad text", query: "meta[a]=%ff", problem: "meta"},
		{rule: "R29 bad escape", query: "meta[a]=%f", problem: "meta"},
		{rule: "R29 size", query: "meta[a]=" + strings.Repeat("x", 16<<10), problem: "meta"},
		{rule: "R29 keys", query: pairs(1000), want: func(q *spec.Query) {
			q.Meta = map[string]string{}
			for i := range 1000 {
				q.Meta[fmt.Sprint(i)] = ""
			}
		}},
		{rule: "R29 keys", query: pairs(1001), problem: "meta"},
	} {
		t.Run(c.rule+" "+c.query[:min(len(c.query), 40)], func(t *testing.T) {
			got, err := list(c.query)
			if c.problem != "" {
				var bad *spec.InvalidError
				if !errors.As(err, &bad) || !errors.Is(err, spec.ErrInvalid) {
					t.Fatalf("got %+v, %v; want an InvalidError", got, err)
				}
				if bad.Field != c.problem {
					t.Errorf("the error %q names %q, want %q", err, bad.Field, c.problem)
				}
				if len(err.Error()) > 400 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := spec.Query{Match: spec.Exact, Statuses: []spec.Status{spec.Pinned}, Limit: 10}
			if c.want != nil {
				c.want(&want)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(cid.Cid.Equals)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// base58 is v1 in another base.
var base58, _ = cid.MustParse(v1).StringOfBase('z')

func before(s string) func(*spec.Query) {
	return func(q *spec.Query) { q.BeforeMS = new(instant(s)) }
}

func after(s string) func(*spec.Query) {
	return func(q *spec.Query) { q.AfterMS = new(instant(s)) }
}

func instant(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UnixMilli()
}

func statuses(s ...spec.Status) func(*spec.Query) {
	return func(q *spec.Query) { q.Statuses = s }
}

func meta(kv ...string) func(*spec.Query) {
	return func(q *spec.Query) {
		q.Meta = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			q.Meta[kv[i]] = kv[i+1]
		}
	}
}

func cids(list ...string) []cid.Cid {
	out := make([]cid.Cid, len(list))
	for i, s := range list {
		out[i] = cid.MustParse(s)
	}
	return out
}

func many(n int) string {
	list := make([]string, n)
	for i := range list {
		c, err := cid.V1Builder{Codec: cid.Raw, MhType: 0x12}.Sum([]byte{byte(i)})
		if err != nil {
			panic(err)
		}
		list[i] = c.String()
	}
	return strings.Join(list, ",")
}

func pairs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "&meta[%d]=", i)
	}
	return b.String()
}
