package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// Reasons for which a connection or an identity is refused. Test with errors.Is.
var (
	// ErrNoCluster: the data folder holds no identity yet.
	ErrNoCluster = errors.New("this node belongs to no cluster yet")
	// ErrHasCluster: the data folder holds an identity already.
	ErrHasCluster = errors.New("this node belongs to a cluster already")
	// ErrStranger: the other side has no certificate of this cluster's CA.
	ErrStranger = errors.New("not a member of this cluster")
	// ErrOtherCluster: the other side is a member of another cluster.
	ErrOtherCluster = errors.New("member of another cluster")
	// ErrWrongName: a member answered, but not the one that was meant.
	ErrWrongName = errors.New("another node than expected")
	// ErrGone, wrapped by Options.Admit: it was a member, and never will be again with
	// this key.
	ErrGone = errors.New("no member any more")
)

// Identity is what a node is in its cluster: its name and key, the CA, and the
// generation. Safe for concurrent use.
type Identity struct {
	folder  string // "" is never valid: SetGeneration writes there
	cluster string
	name    slot.NodeName
	ca      authority
	cert    *x509.Certificate
	key     ed25519.PrivateKey

	mu         sync.Mutex // guards what follows, and the file CLUSTER
	generation slot.Generation
	conns      map[*Conn]struct{} // with members of that generation
}

// Name returns the node's name, fixed for life.
func (id *Identity) Name() slot.NodeName { return id.name }

// ClusterID returns the cluster's random ID, 32 hex digits.
func (id *Identity) ClusterID() string { return id.cluster }

// KeyHash is the node's key as JoinRequest.Key has it.
func (id *Identity) KeyHash() string { return keyHash(id.key.Public()) }

// Admits reports whether this node holds the CA's key, so that it can let others in.
func (id *Identity) Admits() bool { return id.ca.key != nil }

// CAFingerprint returns what a join token pins.
func (id *Identity) CAFingerprint() Fingerprint { return fingerprint(id.ca.cert) }

// Generation returns the cluster generation to which this node belongs.
func (id *Identity) Generation() slot.Generation {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.generation
}

// SetGeneration makes a higher generation durable, uses it for every connection from
// now on, and ends those that were made before. The same one is no change; a lower one
// is refused.
func (id *Identity) SetGeneration(g slot.Generation) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if g == id.generation {
		return nil
	}
	if g < id.generation {
		return fmt.Errorf("set generation %d of node %q: it belongs to generation %d already", g, id.name, id.generation)
	}
	record := clusterRecord{Format: folderFormat, Cluster: id.cluster, Name: id.name, Generation: g}
	if err := disk.ReplaceFile(filepath.Join(id.folder, clusterFile), record.encode()); err != nil {
		return fmt.Errorf("set generation %d of node %q: %w", g, id.name, err)
	}
	id.generation = g
	for c := range id.conns {
		c.NetConn().Close() // whoever uses it forgets it
	}
	id.conns = nil
	return nil
}

// known makes a connection of one whose other side is known, unless this node has
// taken a higher generation since it said its own.
func (id *Identity) known(c *tls.Conn, theirs Hello) (*Conn, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if theirs.Generation != id.generation {
		c.NetConn().Close()
		return nil, &GenerationError{Peer: theirs.Name, Own: id.generation, Theirs: theirs.Generation}
	}
	conn := &Conn{Conn: c, hello: theirs, id: id}
	if id.conns == nil {
		id.conns = map[*Conn]struct{}{}
	}
	id.conns[conn] = struct{}{}
	return conn, nil
}

// forget drops a connection that is closed.
func (id *Identity) forget(c *Conn) {
	id.mu.Lock()
	defer id.mu.Unlock()
	delete(id.conns, c)
}

// Cut closes the connections to those whom admit refuses now, and returns how many
// they were. The other ends connect again, and are told why they may not.
func (id *Identity) Cut(admit func(name slot.NodeName, key string) error) int {
	id.mu.Lock()
	var over []*Conn
	for c := range id.conns {
		if admit(c.Peer(), c.Key()) != nil {
			over = append(over, c)
		}
	}
	id.mu.Unlock()
	for _, c := range over {
		c.NetConn().Close() // a goodbye could hang
	}
	return len(over)
}

// certificate returns the chain that this node shows: its own certificate and
// the CA's, which a joiner needs to see.
func (id *Identity) certificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{id.cert.Raw, id.ca.cert.Raw}, PrivateKey: id.key, Leaf: id.cert}
}

// Init makes a new cluster with this node as its first member, generation 1,
// in dir/cluster. It refuses when there is an identity already.
func Init(dir string, name slot.NodeName) (*Identity, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var random [16]byte
	rand.Read(random[:])
	id := &Identity{cluster: hex.EncodeToString(random[:]), name: name, generation: 1}
	var err error
	if id.ca, err = newAuthority(id.cluster, time.Now()); err != nil {
		return nil, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of node %q: %w", name, err)
	}
	id.key = key
	if id.cert, err = id.ca.issue(id.cluster, name, public); err != nil {
		return nil, err
	}
	if err := id.create(dir); err != nil {
		return nil, err
	}
	return id, nil
}

// create writes the folder of a new identity, all of it or nothing.
func (id *Identity) create(dir string) error {
	files, err := id.files()
	if err != nil {
		return err
	}
	id.folder = filepath.Join(dir, clusterFolder)
	if err := createFolder(id.folder, files); err != nil {
		return fmt.Errorf("create identity of node %q: %w", id.name, err)
	}
	return nil
}

// Load reads and verifies the identity in dir/cluster. The error is
// ErrNoCluster when there is none.
func Load(dir string) (*Identity, error) {
	folder := filepath.Join(dir, clusterFolder)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoCluster
	}
	id, err := readFolder(folder)
	if err != nil {
		return nil, fmt.Errorf("load identity %q: %w", folder, err)
	}
	return id, nil
}
