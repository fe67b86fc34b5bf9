package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/disk"
	"github.com/frostpin/frostpin/pins/hot"
)

// leastOpenFiles is what a node with its usual connections needs.
const leastOpenFiles = 8192

// checkServer asks a running server how it is.
func (d *doctor) checkServer(ctx context.Context) {
	if d.server == nil {
		d.ok("server", "not running")
		return
	}
	answer, err := askReady(ctx, &d.config.Config, d.server.Listening)
	if err != nil {
		d.fail("server", "look at its log; stop it and start it again", "pid %d holds the data directory but does not answer: %v", d.server.PID, err)
		return
	}
	d.ok("server", "running as pid %d, %s", d.server.PID, answer.Status)
	for _, name := range slices.Sorted(maps.Keys(answer.Checks)) {
		if check := answer.Checks[name]; check.Status != "ok" {
			d.fail("server", "look at its log", "%s: %s %s", name, check.Status, check.Detail)
		}
	}
}

func (d *doctor) checkDataDir() {
	dir := d.config.DataDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.ok("data dir", "%s does not exist yet; the first start creates it", dir)
		return
	case err != nil:
		d.fail("data dir", "make it readable for this user, or name another --data-dir", "%v", err)
		return
	case !info.IsDir():
		d.fail("data dir", "name another --data-dir", "%s is not a directory", dir)
		return
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		d.fail("data dir", "run as the user that owns it, or free some space", "writing in it: %v", err)
		return
	}
	d.ok("data dir", "%s is writable", dir)
	d.checkPrivate("data dir", dir)
	if c := d.config; c.file != "" && (c.HotAuthorization != "" || c.LotusToken != "" || c.PaymentKeys != "" || c.Database.redacted() != string(c.Database)) {
		d.checkPrivate("settings", d.config.file)
	}
	if err := disk.New(d.config.disk(), d.log).Check(context.Background()); err != nil {
		d.warn("disk", "free some space, or change disk-watermark and disk-reserve", "%v", err)
	} else if space, err := disk.Statfs(dir); err == nil {
		d.ok("disk", "%s free", readable(space.Free))
	}
}

// checkPrivate warns of what other users of the machine can open.
func (d *doctor) checkPrivate(check, path string) {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return
	}
	d.warn(check, "chmod go= "+path, "others on this machine may open %s (mode %v)", path, info.Mode().Perm())
}

func (d *doctor) checkDatabase(ctx context.Context) {
	name := d.config.Database.redacted()
	if !databaseExists(&d.config.Config) {
		d.ok("database", "%s does not exist yet; the first start creates it", name)
		return
	}
	db, err := database.Open(ctx, string(d.config.Database), d.log)
	if err != nil {
		d.fail("database", "see that it is running, readable for this user and not full", "%s: %v", name, err)
		return
	}
	defer func() {
		if err := db.Close(); err != nil {
			d.fail("database", "look at the disk", "closing it: %v", err)
		}
	}()
	if !d.checkSchema(ctx, db, name) {
		return
	}
	d.checkPlans(ctx, db)
	if db.Dialect() != database.SQLite {
		return
	}
	d.checkPrivate("database", string(d.config.Database))
	var verdict []string
	err = during(d.log, "checking every page of the database", func() error {
		return db.Read(ctx, func(tx *gorm.DB) error { return tx.Raw("PRAGMA quick_check(3)").Scan(&verdict).Error })
	})
	if err == nil && !slices.Equal(verdict, []string{"ok"}) {
		err = errors.New(strings.Join(verdict, "; "))
	}
	if err != nil {
		d.fail("database", "stop the server, keep a copy of the files, restore the last backup", "the file is damaged: %v", err)
	} else {
		d.ok("database", "the file is sound")
	}
}

// checkSchema compares what has run with what this release knows.
func (d *doctor) checkSchema(ctx context.Context, db *database.DB, name string) bool {
	applied, err := db.Applied(ctx)
	if err != nil {
		d.fail("database", "see that it is running and not damaged", "%v", err)
		return false
	}
	known := make(map[string]bool)
	for _, m := range migrations() {
		known[m.ID] = true
	}
	for _, id := range applied {
		if !known[id] {
			d.fail("database", "start that release or a newer one, or restore the backup made before the upgrade",
				"%s was written by a newer release (it has %s)", name, id)
			return false
		}
	}
	if len(applied) < len(known) {
		d.warn("database", "back it up, then start the server, which upgrades it", "%s is of an older release", name)
		return true
	}
	d.ok("database", "%s answers, schema %s", name, applied[len(applied)-1])
	return true
}

// checkPlans looks for plans whose accounts can do nothing, because their limits or prices are not known here.
func (d *doctor) checkPlans(ctx context.Context, db *database.DB) {
	var there bool
	err := db.Read(ctx, func(tx *gorm.DB) error {
		there = tx.Migrator().HasTable("plans")
		return nil
	})
	if err == nil && !there {
		return // it is of an older release
	}
	var plans []auth.Plan
	if err == nil {
		plans, err = auth.New(db, time.Now).Plans(ctx)
	}
	if err != nil {
		d.fail("plans", "see that the database is running and not damaged", "%v", err)
		return
	}
	var unreadable []string
	for _, plan := range plans {
		if _, err := ledger.ParsePrices(plan.Limits.Prices); plan.Unreadable || err != nil {
			unreadable = append(unreadable, plan.Name)
		}
	}
	if len(unreadable) > 0 {
		d.fail("plans", "start the release that has set them, or say all that they shall have with `frostpin plan set NAME --anew`",
			"the limits or prices of %s cannot be read, and their accounts can do little", strings.Join(unreadable, ", "))
		return
	}
	d.ok("plans", "%d can be read", len(plans))
}

// checkHotTier opens the tier when no server has it open.
func (d *doctor) checkHotTier(ctx context.Context) {
	c := &d.config.Config
	if c.Hot == hotEmbedded {
		if d.server != nil {
			d.checkDelegates(d.server.Delegates)
			return
		}
		if _, err := os.Stat(c.hotDir()); errors.Is(err, fs.ErrNotExist) {
			d.ok("hot tier", "no node yet; the first start creates it")
			return
		}
		unlock, err := lockDataDir(ctx, c.DataDir)
		if err != nil {
			d.fail("hot tier", "run doctor again", "%v", err)
			return
		}
		defer func() { _ = unlock() }() // the process ends next
	}
	var tier hotTier
	err := during(d.log, "opening the hot tier", func() (err error) { tier, err = openHot(ctx, c, nil, d.log); return err })
	if err != nil {
		d.fail("hot tier", d.hotAdvice(), "%v", err)
		return
	}
	defer func() {
		if err := tier.Close(); err != nil {
			d.fail("hot tier", "look at the disk", "closing it: %v", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	id, err := tier.ID(ctx)
	if err != nil {
		d.fail("hot tier", d.hotAdvice(), "%v", err)
		return
	}
	d.ok("hot tier", "%s, node %s", c.Hot, id)
	risks, err := tier.Risks(ctx)
	if err != nil {
		d.warn("hot tier", "see that the authorization allows reading the daemon's configuration", "its settings cannot be seen: %v", err)
	}
	for _, risk := range risks {
		d.warn("hot tier", "see docs/operators-guide.md", "%s", risk)
	}
	delegates, err := tier.Delegates(ctx)
	if err != nil {
		d.warn("addresses", "set announce to addresses that clients can reach", "the node knows no address of its own: %v", err)
		return
	}
	d.checkDelegates(delegates)
}

func (d *doctor) hotAdvice() string {
	if d.config.Hot == hotRemote {
		return "start the Kubo daemon; see that hot-url and hot-authorization fit it"
	}
	return "see that no other program uses " + d.config.hotDir() + " or the ports of swarm-listen"
}

// checkDelegates judges the addresses of the node that clients are told.
func (d *doctor) checkDelegates(delegates []string) {
	const advice = "set announce to a multiaddress that clients can reach, or open port 4001 to the node"
	reach := "loopback"
	for _, text := range delegates {
		addr, err := ma.NewMultiaddr(text)
		switch {
		case err != nil:
		case manet.IsPublicAddr(addr):
			reach = "public"
		case !manet.IsIPLoopback(addr) && reach == "loopback":
			reach = "private"
		}
	}
	listed := strings.Join(delegates, " ")
	switch {
	case len(delegates) == 0:
		d.warn("addresses", advice, "clients are told no address of the node")
	case d.config.Network == hot.Private || reach == "public":
		d.ok("addresses", "clients are told %s", listed)
	default:
		d.warn("addresses", advice, "clients are told only %s addresses of the node: %s", reach, listed)
	}
}

// checkPort sees whether a server could listen.
func (d *doctor) checkPort(ctx context.Context) {
	if d.server != nil {
		d.ok("port", "the server listens on %s", d.server.Listening)
		return
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.config.Listen)
	if err == nil {
		err = listener.Close()
	}
	if err != nil {
		d.fail("port", "stop what uses it, or set listen to another", "%v", err)
		return
	}
	d.ok("port", "%s is free", d.config.Listen)
}

// checkEndpoint judges the address of the API that clients are given.
func (d *doctor) checkEndpoint() {
	c := &d.config.Config
	listening := c.Listen
	if d.server != nil {
		listening = d.server.Listening
	}
	endpoint, err := url.Parse(c.Endpoint(listening))
	if err != nil {
		d.fail("endpoint", "correct public-url", "%v", err)
		return
	}
	host, _, err := net.SplitHostPort(listening)
	onlyHere := err == nil && isLoopback(host)
	switch {
	case c.PublicURL != "" && endpoint.Scheme == "http" && !isLoopback(endpoint.Hostname()):
		d.warn("endpoint", "give the proxy a certificate and public-url https://", "tokens travel unencrypted to %s", endpoint)
	case c.PublicURL != "":
		d.ok("endpoint", "%s", endpoint)
	case len(c.TLSDomains) > 0:
		d.ok("endpoint", "%s, with a certificate by ACME", endpoint)
	case c.secure():
		d.warn("endpoint", "set public-url to the name in the certificate", "clients are told %s", endpoint)
	case onlyHere:
		d.ok("endpoint", "%s, for programs on this machine; behind a proxy, set public-url", endpoint)
	default:
		d.warn("endpoint", "set tls-domains or tls-cert; or put a TLS proxy in front, listen on 127.0.0.1 and set public-url",
			"listening on %s without encryption, and clients elsewhere are not told how to reach it", listening)
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (d *doctor) checkFiles() {
	switch limit, known := openFileLimit(); {
	case !known:
	case limit < leastOpenFiles:
		d.warn("files", "raise the limit: ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit", "at most %d open files", limit)
	default:
		d.ok("files", "at most %d open files", limit)
	}
}

// checkRisks names settings that are allowed and should be meant.
func (d *doctor) checkRisks() {
	c := &d.config.Config
	if c.AllowPrivateOrigins && c.Network == hot.Public && c.Hot == hotRemote {
		d.warn("risks", "unset allow-private-origins unless every client is trusted", "clients can make the daemon connect inside your network")
	}
	if c.PublicMetrics {
		d.warn("risks", "unset metrics-public unless a proxy keeps strangers away", "everyone can read /metrics")
	}
	if u, err := url.Parse(c.HotURL); err == nil && c.HotAuthorization != "" && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		d.warn("risks", "use https:// in hot-url", "the authorization for the daemon travels unencrypted")
	}
}
