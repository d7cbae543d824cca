package raftfsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// idName is the file in Config.Dir that holds the server ID.
const idName = "server-id"

// openDir opens or creates what Dir holds: the server ID and the log.
func openDir(cfg Config) (raft.ServerID, backend, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("open raft: %w", err)
	}
	id, err := readServerID(cfg.Dir)
	if err != nil {
		return "", nil, err
	}
	if id != "" {
		// The ID is written after the log was made. A server that has lost its
		// votes must not vote again under the same name.
		if _, err := os.Stat(filepath.Join(cfg.Dir, logName)); errors.Is(err, os.ErrNotExist) {
			return "", nil, fmt.Errorf("open raft in %q: the log of server %q is gone; remove the directory and join again: mailnode cluster join", cfg.Dir, id)
		}
		if cfg.ServerID != "" && cfg.ServerID != id {
			return "", nil, fmt.Errorf("open raft in %q: it belongs to server %q, not %q", cfg.Dir, id, cfg.ServerID)
		}
	}
	back, err := openBackend(cfg.Dir)
	if err != nil {
		return "", nil, err
	}
	if id == "" {
		if id = cfg.ServerID; id == "" {
			id = newServerID(cfg.Name)
		}
		if err := writeServerID(cfg.Dir, id); err != nil {
			return "", nil, errors.Join(err, back.Close())
		}
	}
	if cfg.wrap != nil {
		back = cfg.wrap(back)
	}
	return raft.ServerID(id), back, nil
}

// newServerID makes a name that no earlier installation of the node had.
func newServerID(name slot.NodeName) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return string(name) + "-" + hex.EncodeToString(b[:])
}

func readServerID(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, idName))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open raft: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("open raft in %q: its file %s is empty", dir, idName)
	}
	return id, nil
}

// writeServerID makes the ID durable, and with it the log's directory entry.
func writeServerID(dir, id string) error {
	if err := replaceFile(filepath.Join(dir, idName), []byte(id+"\n")); err != nil {
		return fmt.Errorf("write raft server ID %q: %w", id, err)
	}
	return nil
}

// replaceFile writes a file so that a crash leaves the old one or the new one,
// and makes it and its name durable.
func replaceFile(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Recover makes this server the only voter of what its Dir holds, for
// `cluster recover` on a survivor whose majority is lost for good. No Node may
// have Dir open. It applies every entry of the local log, committed or not, and
// gives the state that results; after Open the caller must propose
// cluster.RaiseGeneration before anything else, or the lost majority could come
// back as a second cluster with the same numbers.
func Recover(cfg Config) (*cluster.State, error) {
	cfg = cfg.withDefaults()
	if _, err := os.Stat(filepath.Join(cfg.Dir, logName)); err != nil {
		return nil, fmt.Errorf("recover raft: %w", err)
	}
	id, back, err := openDir(cfg)
	if err != nil {
		return nil, err
	}
	l := newLatch(func(*ErrHalted) {})
	f := newFSM(l, nil, func(error) {})
	s := &store{back: back, latch: l}
	logger := newHclog(cfg.Logger)
	conf := cfg.raftConfig(id)
	conf.Logger = logger
	err = l.run(func() error {
		snaps, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, logger)
		if err != nil {
			return err
		}
		_, encoder := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr)) // encodes addresses, nothing is sent
		alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(cfg.Addr)}}}
		return raft.RecoverCluster(conf, f, s, s, snaps, encoder, alone)
	})
	if err = errors.Join(err, back.Close()); err != nil {
		return nil, fmt.Errorf("recover raft %q: %w", id, err)
	}
	return f.current.Load().state, nil
}
