// Package daemon is the process round the proxy. It runs apart from whoever sets its table, so that users are served while
// that one restarts, is killed or is upgraded, and gives its place to a newer process without losing a request.
//
// All of a proxy is in one directory, which only its user can enter: its settings, its last table, its log, and the socket
// by which it is told what to do. At most one process serves a directory; those that gave their place finish what is under
// way beside it, and end.
package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

// The files of a directory.
const (
	configFile  = "config.json"
	tableFile   = "table.json"
	keyFile     = "sticky.key"
	lockFile    = "lock"
	startFile   = "start.lock" // held while somebody starts a process
	logFile     = "log"
	accessFile  = "access.log"
	controlSock = "control.sock"
	stoppedFile = "stopped" // is there while nobody is to start a process unasked
	drainSocks  = "drain-*.sock"
	tlsDir      = "tls"
)

// Config is how a proxy is to run. It is kept in the directory, so that who restarts it need not know.
type Config struct {
	Dir string `json:"-"` // absolute
	// Listen is where HTTP in the clear is taken, ListenTLS where HTTP with TLS is; one may be empty. host:port.
	Listen    string `json:"listen,omitempty"`
	ListenTLS string `json:"listen_tls,omitempty"`
	// TLS says where the certificates of ListenTLS come from.
	TLS tlsauto.Config `json:"tls,omitzero"`
	// Trusted are the peers whose X-Forwarded-For is believed.
	Trusted []netip.Prefix `json:"trusted,omitempty"`
	Limits  Limits         `json:"limits,omitzero"`
	// Drain is how long what is under way may go on in a process that has given its place or was told to stop; 0 is ten
	// minutes.
	Drain time.Duration `json:"drain,omitempty"`

	// Command starts a process; nil is this program with "proxy run". Flags are appended.
	Command []string `json:"-"`
}

// Limits bound what clients can ask of the proxy. A zero is the proxy's own limit.
type Limits struct {
	MaxBody         int64         `json:"max_body,omitempty"`
	MaxHeader       int           `json:"max_header,omitempty"`
	ResponseTimeout time.Duration `json:"response_timeout,omitempty"`
	PauseLimit      time.Duration `json:"pause_limit,omitempty"`
	HeaderTimeout   time.Duration `json:"header_timeout,omitempty"`
	StallTimeout    time.Duration `json:"stall_timeout,omitempty"`
	IdleTimeout     time.Duration `json:"idle_timeout,omitempty"`
}

const defaultDrain = 10 * time.Minute

// maxSocketPath is what fits into a sockaddr_un everywhere.
const maxSocketPath = 103

func (c *Config) check() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("proxy: the directory %q is not absolute", c.Dir)
	}
	if p := filepath.Join(c.Dir, "drain-4194304.sock"); len(p) > maxSocketPath {
		return fmt.Errorf("proxy: the path %s is %d bytes long, and sockets have at most %d: use a shorter directory", p, len(p), maxSocketPath)
	}
	if c.Listen == "" && c.ListenTLS == "" {
		return errors.New("proxy: there is no address to listen at")
	}
	for _, addr := range []string{c.Listen, c.ListenTLS} {
		if addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("proxy: listen at %s: %w; it has to be host:port", addr, err)
		}
	}
	return nil
}

func (c *Config) drain() time.Duration {
	if c.Drain == 0 {
		return defaultDrain
	}
	return c.Drain
}

// listeners are the addresses by what the sockets are called: the same name is the same socket for the next process.
func (c *Config) listeners() map[string]string {
	all := map[string]string{}
	if c.Listen != "" {
		all["http "+c.Listen] = c.Listen
	}
	if c.ListenTLS != "" {
		all["https "+c.ListenTLS] = c.ListenTLS
	}
	return all
}

// tlsPort is the number of the port of ListenTLS.
func (c *Config) tlsPort() int {
	_, port, _ := net.SplitHostPort(c.ListenTLS)
	n, _ := strconv.Atoi(port)
	return n
}

// id tells settings from others.
func (c *Config) id() string {
	b, _ := json.Marshal(c) // of these types it can always be
	return shortHash(b)
}

// readConfig reads what a directory's proxy runs with.
func readConfig(dir string) (Config, error) {
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("proxy: %s holds no proxy: %w", dir, err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("proxy: %w", err)
	}
	c := Config{Dir: dir}
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("proxy: %s: %w", filepath.Join(dir, configFile), err)
	}
	return c, nil
}

// write keeps the settings in the directory. undo brings those before back.
func (c *Config) write() (undo func(), err error) {
	path := filepath.Join(c.Dir, configFile)
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	before, missing := os.ReadFile(path)
	if err := writeFile(path, b); err != nil {
		return nil, fmt.Errorf("proxy: keep the settings: %w", err)
	}
	return func() {
		if missing == nil {
			_ = writeFile(path, before)
		}
	}, nil
}

// writeFile replaces a file in one step: after a crash at any time it is the old one or the new one.
func writeFile(path string, b []byte) error {
	commit, drop, err := stageFile(path, b)
	if err != nil {
		return err
	}
	defer drop()
	return commit()
}

// stageFile writes what is to become of a file, up to the disk. Then commit puts it in place, or drop forgets it.
func stageFile(path string, b []byte) (commit func() error, drop func(), err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return nil, nil, err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	drop = func() { _ = os.Remove(f.Name()) }
	if err != nil {
		drop()
		return nil, nil, err
	}
	return func() error {
		if err := os.Rename(f.Name(), path); err != nil {
			return err
		}
		d, err := os.Open(filepath.Dir(path))
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	}, drop, nil
}
