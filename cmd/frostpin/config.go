package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/server"
)

// The kinds of hot tier.
const (
	hotEmbedded = "embedded"
	hotRemote   = "remote"
)

// Who may make accounts.
const (
	signUpOff    = "off"
	signUpInvite = "invite"
)

// Config holds every setting. The tags are the single source of names, help texts, `frostpin config show` and
// docs/settings.md: "derived" describes a default that depends on other settings, "everywhere" marks settings that
// commands other than serve need too.
type Config struct {
	DataDir  string `setting:"data-dir" everywhere:"true" derived:"$XDG_DATA_HOME/frostpin or ~/.local/share/frostpin" help:"Where everything is kept: database, blocks, identity."`
	Database DSN    `setting:"database" everywhere:"true" derived:"frostpin.db in data-dir" help:"The database: path of a SQLite file, or postgres://user:password@host/name."`

	Listen                   string   `setting:"listen" help:"Address and port of the HTTP server. Use TLS, or put a TLS proxy in front, before you open it to others."`
	TLSCert                  string   `setting:"tls-cert" help:"File with the certificate of the HTTP server and those that signed it, in PEM. Changed files are loaded again."`
	TLSKey                   string   `setting:"tls-key" help:"File with the key of tls-cert."`
	TLSDomains               []string `setting:"tls-domains" help:"Host names for which certificates are got and renewed by ACME. The names must lead here, to port 443 or, with listen-http, to port 80."`
	ACMEEmail                string   `setting:"acme-email" help:"Address that the certificate authority may write to."`
	ACMEDirectory            string   `setting:"acme-directory" help:"Directory of the certificate authority. To use it is to agree to its terms."`
	ListenHTTP               string   `setting:"listen-http" help:"Address and port that send browsers from http to https, and answer the certificate authority."`
	BasePath                 string   `setting:"base-path" help:"Path of the Pinning Service API on this server."`
	PublicURL                string   `setting:"public-url" derived:"http(s)://<listen><base-path>; https://<tls-domains><base-path>" help:"Complete address of the API as clients reach it, when a proxy stands in between."`
	MaxConnections           int      `setting:"max-connections" help:"Connections to the HTTP server at once, and never more than half of the files that may be open. Further clients wait."`
	MaxConnectionsPerAddress int      `setting:"max-connections-per-address" help:"The same from one address, or one IPv6 network of 64 bits; further ones are hung up on. Neither this machine nor trusted-proxies has this bound."`
	TrustedProxies           []string `setting:"trusted-proxies" help:"Networks, such as 10.0.0.5/32, of proxies that are believed when they name a client's address (X-Forwarded-For), host and scheme."`
	PublicMetrics            bool     `setting:"metrics-public" help:"Show /metrics and the details of /readyz to everyone, not only to this machine."`

	SignUp          string        `setting:"signup" help:"off: only the operator makes accounts. invite: so may whoever has an invite code (frostpin invite create)."`
	ClosedRetention time.Duration `setting:"closed-retention" help:"How long the pins of a closed account stay before they are removed. 0s: for ever."`

	WebhookPrivate []string `setting:"webhook-private" help:"Networks, such as 10.1.0.0/16, in which webhooks of accounts may be although they are not public, also over plain http."`

	Currency    string      `setting:"currency" help:"What a credit is, such as EUR: reports of payments must name it."`
	PaymentKeys auth.Secret `setting:"payment-keys" help:"Keys with which the adapter of a payment provider signs its reports, separated by commas; each has at least 16 bytes. None: no reports are taken."`

	Network             string   `setting:"network" help:"public: take part in the IPFS network. private: stay on this machine's loopback."`
	SwarmListen         []string `setting:"swarm-listen" derived:"port 4001, TCP and QUIC; private: any loopback port" help:"Multiaddresses on which the embedded IPFS node listens."`
	Announce            []string `setting:"announce" help:"Multiaddresses told to clients before those the node finds out itself."`
	AllowPrivateOrigins bool     `setting:"allow-private-origins" derived:"true on a private network" help:"Dial private and loopback addresses that clients name as origins. Any client can then make this machine connect inside your network."`
	ConnectionsLow      int      `setting:"connections-low" help:"Connections that the embedded node keeps when it has trimmed them."`
	ConnectionsHigh     int      `setting:"connections-high" help:"Connections at which the embedded node begins to trim."`

	Hot              string      `setting:"hot" help:"What holds the blocks. embedded: an IPFS node inside this process. remote: a Kubo daemon."`
	HotDatastore     string      `setting:"hot-datastore" help:"Store of a new embedded node: pebbleds or flatfs. Fixed once it exists."`
	HotURL           string      `setting:"hot-url" help:"RPC address of the Kubo daemon, such as http://127.0.0.1:5001."`
	HotAuthorization auth.Secret `setting:"hot-authorization" help:"Authorization header for the Kubo daemon, such as: Bearer TOKEN."`

	MaxDAGBytes   Size          `setting:"max-dag-bytes" help:"Largest DAG that is accepted."`
	MaxDAGBlocks  int64         `setting:"max-dag-blocks" help:"Most blocks in one DAG."`
	MaxDAGDepth   int           `setting:"max-dag-depth" help:"Most links between the root of a DAG and any of its blocks."`
	MaxBlockSize  Size          `setting:"max-block-size" help:"Largest block that is accepted."`
	FetchSlots    int           `setting:"fetch-slots" help:"DAGs that are fetched at once."`
	UploadSlots   int           `setting:"upload-slots" help:"Uploads that are taken at once; one account gets at most a quarter of them."`
	FindRoots     int           `setting:"find-roots" help:"DAGs whose first block is looked for at once."`
	FindSlice     time.Duration `setting:"find-slice" help:"How long a DAG is looked for before the next gets its turn."`
	FetchIdle     time.Duration `setting:"fetch-idle" help:"Without a new block for this long a fetch asks its peers anew."`
	FetchStall    time.Duration `setting:"fetch-stall" help:"Without a new block for this long a fetch gives its slot back and tries again later."`
	FetchDeadline time.Duration `setting:"fetch-deadline" help:"How long a DAG is tried before its pins fail."`
	RetryFirst    time.Duration `setting:"retry-first" help:"Pause after the first fruitless try; it doubles with each further one."`
	RetryMax      time.Duration `setting:"retry-max" help:"Longest pause between two tries."`

	DiskReserve   Size `setting:"disk-reserve" derived:"5GiB, or a twentieth of a smaller disk" help:"Free space of a disk below which nothing more is stored: new pins and uploads are refused until there is more. Reads and removals go on."`
	DiskWatermark int  `setting:"disk-watermark" derived:"90, or what leaves 50GiB free on a large disk" help:"Percent of a disk in use from which nothing new is fetched: new pins wait."`

	RetainReplaced time.Duration `setting:"retain-replaced" help:"How long the DAG of a replaced pin waits for its successor."`
	GCInterval     time.Duration `setting:"gc-interval" help:"Least time between two removals of blocks that nobody pins; 0 means never."`

	Devnet           bool        `setting:"devnet" help:"Run a Filecoin network of our own inside this process, with storage providers, to try everything without Filecoin. Nothing real is stored."`
	LotusURL         string      `setting:"lotus-url" help:"API of a Lotus node, such as ws://127.0.0.1:1234/rpc/v1. Without one nothing is stored on Filecoin."`
	LotusToken       auth.Secret `setting:"lotus-token" help:"Token of the Lotus node with the permissions read, write and sign."`
	FilecoinNetwork  string      `setting:"filecoin-network" help:"Network that the Lotus node must belong to."`
	Wallet           string      `setting:"wallet" help:"Address (f1 or f3) in the Lotus node's wallet that proposes and pays."`
	PieceURL         string      `setting:"piece-url" derived:"http(s)://<listen>/piece; https://<tls-domains>/piece" help:"Address under which storage providers reach /piece on this server: public and https, except on a devnet."`
	PieceTransfers   int         `setting:"piece-transfers" help:"Transfers to storage providers at once."`
	PieceRate        Size        `setting:"piece-rate" help:"Bytes a second for all transfers to storage providers; 0B means no bound."`
	LayoutSpace      Size        `setting:"layout-space" help:"Disk space for the tables of contents of pieces, which can always be made anew."`
	MaxPiece         Size        `setting:"max-piece" help:"Largest piece. DAGs that do not fit are not stored on Filecoin."`
	Replicas         int         `setting:"replicas" derived:"2; 3 on a devnet" help:"Copies on Filecoin of a pin that does not say."`
	MaxReplicas      int         `setting:"max-replicas" help:"Most copies that a pin may ask for."`
	DealDays         int         `setting:"deal-days" help:"Days a deal lasts when a pin does not say, from 180 to 1278."`
	DealStartDelay   Span        `setting:"deal-start-delay" help:"Time a storage provider has to fetch and seal, counted in epochs of the chain."`
	DealRenewBefore  Span        `setting:"deal-renew-before" help:"How long before its end a deal is renewed, counted in epochs of the chain."`
	PinnedWhen       string      `setting:"pinned-when" help:"hot: pinned means held here. accepted(k), active(k): and k deals accepted, or proven on chain."`
	VerifiedDeals    bool        `setting:"verified-deals" help:"Propose verified deals, which use the wallet's datacap."`
	MaxPrice         Amount      `setting:"max-price" help:"Highest price for a GiB and epoch, such as 50000000 (attoFIL) or 0.0001FIL. 0: free and verified deals only."`
	MaxDealCost      Amount      `setting:"max-deal-cost" help:"Highest cost of one deal over its whole life. 0: free deals only."`
	MaxDayCost       Amount      `setting:"max-day-cost" help:"Highest cost of all deals proposed on one day (UTC). 0: free deals only."`
	MaxMonthCost     Amount      `setting:"max-month-cost" help:"Highest cost of all deals proposed in one month (UTC). 0: free deals only."`
	EscrowFloor      Amount      `setting:"escrow-floor" help:"Escrow in the market that is kept free; what falls below it is topped up."`
	EscrowTopUp      Amount      `setting:"escrow-top-up" help:"Least amount of a top-up. 0: escrow is never topped up by this service."`
	MaxDayEscrow     Amount      `setting:"max-day-escrow" help:"Most that is moved from the wallet to the market on one day (UTC)."`
	DealsAtOnce      int         `setting:"deals-at-once" help:"Deals that are being proposed or transferred at once."`
	DealsPerProvider int         `setting:"deals-per-provider" help:"The same for one storage provider that has no bound of its own."`

	GatewayAccess    string   `setting:"gateway-access" help:"Who may read at /ipfs. open: everyone. token: who has a token of an account that pins the root, or a signed link. off: nobody."`
	GatewayFetch     string   `setting:"gateway-fetch" help:"What is read from afar when it is not here. held: only what is pinned here; all else is read from what is here. only: what is not pinned is not read at all. any: everything, which makes this server an open proxy."`
	GatewayTrustless bool     `setting:"gateway-trustless" help:"Serve only blocks and CARs, which readers verify themselves, and no files or pages."`
	GatewayHosts     []string `setting:"gateway-hosts" help:"Host names that also serve each root under a name of its own, as https://CID.ipfs.HOST."`
	GatewayURL       string   `setting:"gateway-url" derived:"the address of the request" help:"Address of this server as readers reach it, for signed links."`
	Denylists        []string `setting:"denylists" help:"Files that name what must be neither pinned nor read, in the format of the IPFS community. Changes are noticed."`

	VerifyRate       Size          `setting:"verify-rate" help:"Bytes a second of what is held that are read and hashed, each DAG once a week; what is damaged is restored. 0B: only what readers find damaged."`
	HotQuota         Size          `setting:"hot-quota" help:"Bytes of DAGs that are held hot. When they are nearly used up, DAGs whose Filecoin deals are all proven are let go here, those first that are read least for the room they take. 0B: no bound."`
	HotStay          time.Duration `setting:"hot-stay" help:"How long a DAG stays hot after it came or was read, whatever the quota."`
	RetrievalPrivate []string      `setting:"retrieval-private" derived:"none; loopback on a devnet" help:"Networks, such as 10.1.0.0/16, in which storage providers may be although they are not public."`
	IPNIURL          string        `setting:"ipni-url" help:"Index that is asked who else has what our storage providers do not give, such as https://cid.contact. Without one nobody is asked."`
	ProbePace        time.Duration `setting:"probe-pace" help:"Pause between two cold copies that are read back to prove that they can be; 0s means that none is."`

	LogLevel        slog.Level    `setting:"log-level" help:"debug, info, warn or error."`
	LogFormat       string        `setting:"log-format" help:"text or json."`
	ShutdownTimeout time.Duration `setting:"shutdown-timeout" help:"How long a stop may take before the process ends all the same."`
}

// defaults are the settings of an installation about which nobody has decided anything.
func defaults() Config {
	return Config{
		Listen:   "127.0.0.1:7420",
		BasePath: "/psa",

		ACMEDirectory: "https://acme-v02.api.letsencrypt.org/directory",

		MaxConnections:           10_000,
		MaxConnectionsPerAddress: 256,
		SignUp:                   signUpOff,
		ClosedRetention:          30 * 24 * time.Hour,
		Currency:                 "credits",

		Network:         hot.Public,
		ConnectionsLow:  100,
		ConnectionsHigh: 200,

		Hot:          hotEmbedded,
		HotDatastore: hot.Pebble,

		MaxDAGBytes:   32 << 30,
		MaxDAGBlocks:  10_000_000,
		MaxDAGDepth:   1024,
		MaxBlockSize:  2 << 20,
		FetchSlots:    256,
		UploadSlots:   16,
		FindRoots:     10_000,
		FindSlice:     30 * time.Second,
		FetchIdle:     15 * time.Second,
		FetchStall:    time.Minute,
		FetchDeadline: 24 * time.Hour,
		RetryFirst:    10 * time.Second,
		RetryMax:      time.Hour,

		RetainReplaced: 24 * time.Hour,
		GCInterval:     time.Hour,

		FilecoinNetwork:  "mainnet",
		PieceTransfers:   32,
		LayoutSpace:      1 << 30,
		MaxPiece:         32 << 30,
		Replicas:         2,
		MaxReplicas:      5,
		DealDays:         540,
		DealStartDelay:   3 * deals.EpochsPerDay,
		DealRenewBefore:  30 * deals.EpochsPerDay,
		PinnedWhen:       "hot",
		DealsAtOnce:      32,
		DealsPerProvider: 2,
		VerifyRate:       4 << 20,
		HotStay:          24 * time.Hour,
		GatewayAccess:    string(server.AccessOpen),
		GatewayFetch:     string(server.FetchHeld),
		ProbePace:        time.Minute,

		LogLevel:        slog.LevelInfo,
		LogFormat:       "text",
		ShutdownTimeout: 10 * time.Second,
	}
}

// derive fills the settings whose default depends on others. given tells which ones somebody has decided.
func (c *Config) derive(given func(name string) bool) {
	if c.Database == "" {
		c.Database = DSN(filepath.Join(c.DataDir, "frostpin.db"))
	}
	if !given("allow-private-origins") {
		c.AllowPrivateOrigins = c.Network == hot.Private
	}
	c.deriveCold(given)
}

// Endpoint is the address that clients are given. listening is where the server really listens: the setting may leave
// the port open, or name no host.
func (c *Config) Endpoint(listening string) string {
	if c.PublicURL != "" {
		return strings.TrimRight(c.PublicURL, "/")
	}
	return c.origin(listening) + strings.TrimRight(c.BasePath, "/")
}

// origin is the server's own address: by name where it has one, else as this machine reaches it.
func (c *Config) origin(listening string) string {
	scheme := "http"
	if c.secure() {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(cmp.Or(listening, c.Listen))
	if err != nil {
		return scheme + "://" + listening
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if len(c.TLSDomains) > 0 {
		host = c.TLSDomains[0]
		if port == "443" {
			return scheme + "://" + host
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// Validate names everything that is wrong, each problem beginning with the setting's name.
func (c *Config) Validate() error {
	wrong := problems{}
	wrong.check("data-dir", c.DataDir == "", "it is empty and there is no home directory to put it in")
	_, err := database.DialectOf(string(c.Database))
	wrong.add("database", err)

	wrong.add("listen", checkListen(c.Listen))
	_, err = server.New(server.Config{BasePath: c.BasePath}, nil, nil, slog.New(slog.DiscardHandler))
	wrong.add("base-path", err)
	if c.PublicURL != "" {
		wrong.add("public-url", checkURL(c.PublicURL))
		wrong.check("public-url", strings.HasSuffix(strings.TrimRight(c.PublicURL, "/"), "/pins"),
			"it must not end in /pins: clients add that themselves")
	}

	c.validateTLS(wrong)
	wrong.check("max-connections", c.MaxConnections < 1, "it must be at least 1")
	wrong.check("max-connections-per-address", c.MaxConnectionsPerAddress < 1, "it must be at least 1")
	_, err = networks(c.TrustedProxies)
	wrong.add("trusted-proxies", err)

	wrong.oneOf("signup", c.SignUp, signUpOff, signUpInvite)
	wrong.check("closed-retention", c.ClosedRetention < 0, "it must not be negative")
	_, err = networks(c.WebhookPrivate)
	wrong.add("webhook-private", err)
	c.validatePayments(wrong)
	wrong.oneOf("network", c.Network, hot.Public, hot.Private)
	for _, addr := range c.SwarmListen {
		parsed, err := ma.NewMultiaddr(addr)
		wrong.add("swarm-listen", err)
		if err == nil {
			wrong.check("swarm-listen", c.Network == hot.Private && !manet.IsIPLoopback(parsed),
				addr+" is not on the loopback, where a private network stays")
		}
	}
	for _, addr := range c.Announce {
		_, err := ma.NewMultiaddr(addr)
		wrong.add("announce", err)
	}
	wrong.check("connections-low", c.ConnectionsLow < 1, "it must be at least 1")
	wrong.check("connections-high", c.ConnectionsHigh < c.ConnectionsLow, "it must not be less than connections-low")

	wrong.oneOf("hot", c.Hot, hotEmbedded, hotRemote)
	wrong.oneOf("hot-datastore", c.HotDatastore, hot.Pebble, hot.Flatfs)
	switch {
	case c.HotURL != "":
		wrong.add("hot-url", checkURL(c.HotURL))
		wrong.check("hot-url", c.Hot == hotEmbedded, "it is set, but hot is embedded: set hot to remote to use it")
	case c.Hot == hotRemote:
		wrong.check("hot-url", true, "hot is remote: name the daemon, such as http://127.0.0.1:5001")
	}
	wrong.check("hot-authorization", c.HotAuthorization != "" && c.Hot == hotEmbedded, "it is set, but hot is embedded")
	wrong.check("hot-authorization", strings.ContainsAny(c.HotAuthorization.Reveal(), "\r\n"), "it is more than one line")

	c.validateFetching(wrong)
	wrong.check("disk-reserve", c.DiskReserve < 0, "it must not be negative")
	wrong.check("disk-watermark", c.DiskWatermark < 0 || c.DiskWatermark > 100, "it must be from 1 to 100")
	c.validateCold(wrong)
	wrong.oneOf("log-format", c.LogFormat, "text", "json")
	wrong.check("shutdown-timeout", c.ShutdownTimeout <= 0, "it must be longer than 0")
	return wrong.join()
}

func (c *Config) validateFetching(wrong problems) {
	for name, n := range map[string]int64{
		"max-dag-bytes": int64(c.MaxDAGBytes), "max-dag-blocks": c.MaxDAGBlocks, "max-dag-depth": int64(c.MaxDAGDepth),
		"max-block-size": int64(c.MaxBlockSize), "fetch-slots": int64(c.FetchSlots), "upload-slots": int64(c.UploadSlots), "find-roots": int64(c.FindRoots),
	} {
		wrong.check(name, n < 1, "it must be at least 1")
	}
	for name, d := range map[string]time.Duration{
		"find-slice": c.FindSlice, "fetch-idle": c.FetchIdle, "fetch-deadline": c.FetchDeadline, "retry-first": c.RetryFirst,
	} {
		wrong.check(name, d <= 0, "it must be longer than 0")
	}
	wrong.check("max-block-size", c.MaxBlockSize >= maxCARBlock-1<<10, "it must be less than 4 MiB: get and export take no larger ones")
	wrong.check("fetch-stall", c.FetchStall < c.FetchIdle, "it must not be shorter than fetch-idle")
	wrong.check("retry-max", c.RetryMax < c.RetryFirst, "it must not be shorter than retry-first")
	wrong.check("retain-replaced", c.RetainReplaced < 0, "it must not be negative")
	wrong.check("gc-interval", c.GCInterval < 0, "it must not be negative")
}

// checkListen wants host:port with a port that exists.
func checkListen(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port, such as 127.0.0.1:7420", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535", address)
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return errors.New("it is not an address that begins with http:// or https:// and a host")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return errors.New("it must have no user name, query or fragment")
	}
	return nil
}

// problems collects what is wrong, by setting.
type problems map[string][]string

func (p problems) add(name string, err error) {
	if err != nil {
		p[name] = append(p[name], err.Error())
	}
}

func (p problems) check(name string, wrong bool, problem string) {
	if wrong {
		p[name] = append(p[name], problem)
	}
}

func (p problems) oneOf(name, value string, allowed ...string) {
	p.check(name, !slices.Contains(allowed, value), fmt.Sprintf("%q is not one of %s", value, strings.Join(allowed, ", ")))
}

// join returns one error per problem, in the order of the settings.
func (p problems) join() error {
	var all []error
	for _, s := range settings() {
		for _, problem := range p[s.name] {
			all = append(all, fmt.Errorf("%s: %s", s.name, problem))
		}
	}
	return errors.Join(all...)
}
