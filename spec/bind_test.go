package spec_test

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// bind turns a canonical query into parameters. It panics on anything that a canonical query cannot contain.
func bind(canonical string) spec.GetPinsParams {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	q, err := url.ParseQuery(canonical)
	must(err)
	var p spec.GetPinsParams
	for name, values := range q {
		if len(values) != 1 || values[0] == "" {
			panic("not canonical: " + canonical)
		}
		v := values[0]
		switch name {
		case "cid":
			p.Cid = new(strings.Split(v, ","))
		case "status":
			var list []spec.Status
			for word := range strings.SplitSeq(v, ",") {
				list = append(list, spec.Status(word))
			}
			p.StatusFilter = &list
		case "name":
			p.Name = &v
		case "match":
			p.Match = new(spec.TextMatchingStrategy(v))
		case "before", "after":
			t, err := time.Parse(time.RFC3339Nano, v)
			must(err)
			if name == "before" {
				p.Before = &t
			} else {
				p.After = &t
			}
		case "limit":
			n, err := strconv.ParseInt(v, 10, 32)
			must(err)
			p.Limit = new(int32(n))
		case "meta":
			must(json.Unmarshal([]byte(v), &p.Meta))
		default:
			panic("unknown parameter " + name)
		}
	}
	return p
}
