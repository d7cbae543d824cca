package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// Bounds of what is exchanged when a node joins.
const (
	joinRequestMax = 16 << 10                                                    // bytes
	joinAnswerMax  = 64<<10 + membersMax*memberMaxLen + slot.MaxSlots*copyMaxLen // bytes: certificates and keys, all members, the copies
	copyMaxLen     = 64                                                          // bytes of one Copy in JSON
	membersMax     = 256                                                         // raftfsm/cluster.MaxMembers
	memberMaxLen   = NameMax + addressMax + 40                                   // bytes of one Member in JSON
	addressMax     = 270                                                         // a DNS name and a port
	zoneMax        = 63
	roleMax        = 31
	// joinRequestTimeout is for the request alone, joinDecisionTimeout for the
	// cluster's decision, which takes a Raft commit.
	joinRequestTimeout  = 10 * time.Second
	joinDecisionTimeout = 30 * time.Second
)

// JoinRequest says who wants to join. TokenID, SecretHash and Key are filled in
// by this package; the rest is the joiner's.
type JoinRequest struct {
	TokenID    string
	SecretHash [32]byte // SHA-256 of the secret that the joiner showed
	Key        string   // SHA-256 of the public key that the joiner has proved to hold, lower-case hex
	Name       slot.NodeName
	Address    string // host:port that other nodes will dial
	Zone       string
	Standby    bool
	Role       string            // as raftfsm/cluster names roles; this package passes it on
	Features   slot.FeatureLevel // up to which the joiner understands the others
	Replace    bool              // it takes the place of the member of its name
}

func (r JoinRequest) check() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(r.Address); err != nil || len(r.Address) > addressMax {
		return fmt.Errorf("address %q of node %q: want host:port", shorten(r.Address, 80), r.Name)
	}
	if len(r.Zone) > zoneMax || len(r.Role) > roleMax {
		return fmt.Errorf("zone or role of node %q is too long", r.Name)
	}
	return nil
}

// Member is a node that a joiner can talk to.
type Member struct {
	Name    slot.NodeName `json:"name"`
	Address string        `json:"address"`
}

// JoinAccepted is what the cluster tells a node that may join.
type JoinAccepted struct {
	Members []Member `json:"members,omitempty"` // all that the cluster has
	Copies  []Copy   `json:"copies,omitempty"`  // what the member has of whom it takes the place
	// Admits: the joiner is one that lets others in, so that it gets the CA's key.
	Admits bool `json:"-"`
}

// Copy is a slot of which a member is recorded to have a copy, or may have mail that
// nobody else has.
type Copy struct {
	Slot  slot.ID `json:"slot"`
	Holds bool    `json:"holds,omitempty"` // it is recorded to have one
	// Kept: nobody has proved to have all that this copy may have.
	Kept   bool `json:"kept,omitempty"`
	Master bool `json:"master,omitempty"`
}

// joinWire is a JoinRequest as it travels.
type joinWire struct {
	TokenID  string            `json:"token"`
	Secret   []byte            `json:"secret"`
	Name     slot.NodeName     `json:"name"`
	Address  string            `json:"address"`
	Zone     string            `json:"zone,omitempty"`
	Standby  bool              `json:"standby,omitempty"`
	Role     string            `json:"role,omitempty"`
	Features slot.FeatureLevel `json:"features,omitempty"`
	Replace  bool              `json:"replace,omitempty"`
	CSR      []byte            `json:"csr"` // DER
}

// joinAnswer is the reply. CAKey is only for those that let others in: see folder.go.
type joinAnswer struct {
	Refusal    string          `json:"refusal,omitempty"`
	AskAnother bool            `json:"ask_another,omitempty"`
	Cluster    string          `json:"cluster,omitempty"`
	Generation slot.Generation `json:"generation,omitempty"`
	CA         []byte          `json:"ca,omitempty"`     // PEM
	CAKey      []byte          `json:"ca_key,omitempty"` // PEM
	Cert       []byte          `json:"cert,omitempty"`   // PEM
	Accepted   JoinAccepted    `json:"accepted"`
}

// ErrAskAnother, wrapped by an authorizer, means that this member cannot decide
// now, or does not know what became of it: the joiner asks the next seed the same.
var ErrAskAnother = errors.New("ask another member")

// JoinRefusedError is what the member that was asked said.
type JoinRefusedError struct {
	Reason string // its words
}

// Error returns the member's words.
func (e *JoinRefusedError) Error() string { return "the cluster refuses: " + e.Reason }

// Join makes this node a member: it makes a key, shows the token to a seed and
// writes what it gets to dir/cluster. The key never leaves the machine. A seed
// that cannot be reached, or says ErrAskAnother, is passed over. After a crash
// or an error there is either a whole identity or none. The key is on disk before
// anybody is asked: with the same token the same folder can ask again, whatever
// became of the first try.
//
// A machine that takes a member's place may have an identity until Options.OnAccepted
// has moved it away.
func Join(ctx context.Context, token, dir string, r JoinRequest, o Options) (*Identity, JoinAccepted, error) {
	none := JoinAccepted{}
	t, err := ParseToken(token)
	if err != nil {
		return nil, none, err
	}
	if err := r.check(); err != nil {
		return nil, none, fmt.Errorf("join cluster %q: %w", t.Cluster, err)
	}
	if t.Name != "" && t.Name != r.Name {
		return nil, none, fmt.Errorf("join cluster %q: the token is for node %q, this node is %q", t.Cluster, t.Name, r.Name)
	}
	// Asked before the token is shown, so that it is not used up in vain.
	if _, err := os.Lstat(filepath.Join(dir, clusterFolder)); err == nil && !r.Replace {
		return nil, none, fmt.Errorf("join cluster %q: %w", t.Cluster, ErrHasCluster)
	}
	id := &Identity{cluster: t.Cluster, name: r.Name}
	if id.key, err = joinKey(dir); err != nil {
		return nil, none, fmt.Errorf("join cluster %q: %w", t.Cluster, err)
	}
	answer, err := askSeeds(ctx, t, r, id.key, o.withDefaults())
	if err != nil {
		return nil, none, fmt.Errorf("join cluster %q: %w", t.Cluster, err)
	}
	if err := id.adopt(answer, t); err != nil {
		return nil, none, fmt.Errorf("join cluster %q: %w", t.Cluster, err)
	}
	if o.OnAccepted != nil {
		if err := o.OnAccepted(answer.Accepted); err != nil {
			return nil, none, fmt.Errorf("join cluster %q: the cluster has accepted, repeat this here: %w", t.Cluster, err)
		}
	}
	if err := id.create(dir); err != nil {
		return nil, none, err
	}
	if err := os.Remove(filepath.Join(dir, joinKeyFile)); err != nil {
		return nil, none, fmt.Errorf("join cluster %q: it is done, remove its key's draft: %w", t.Cluster, err)
	}
	return id, answer.Accepted, nil
}

// joinKeyFile holds a joiner's key until its identity is whole.
const joinKeyFile = "join-key.pem"

// joinKey returns the key of an earlier try, or makes one that a crash does not lose.
func joinKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, joinKeyFile)
	text, err := os.ReadFile(path)
	if err == nil {
		key, err := decodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("read key %q of an earlier try: %w: remove the file, then join with a new token", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key of an earlier try: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if text, err = encodeKey(key); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	if err := disk.ReplaceFile(path, text); err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	return key, nil
}

// askSeeds tries one seed after another until one has decided.
func askSeeds(ctx context.Context, t Token, r JoinRequest, key ed25519.PrivateKey, o Options) (joinAnswer, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{string(r.Name)}}, key)
	if err != nil {
		return joinAnswer{}, fmt.Errorf("make certificate request: %w", err)
	}
	wire := joinWire{TokenID: t.ID, Secret: t.Secret, Name: r.Name, Address: r.Address, Zone: r.Zone, Standby: r.Standby, Role: r.Role, Features: r.Features, Replace: r.Replace, CSR: csr}
	var passed []error
	for _, seed := range t.Seeds {
		answer, decided, err := askSeed(ctx, seed, t, wire, o)
		if err == nil {
			return answer, nil
		}
		err = fmt.Errorf("ask %q: %w", seed, err)
		if decided || ctx.Err() != nil {
			return joinAnswer{}, err
		}
		passed = append(passed, err)
	}
	return joinAnswer{}, errors.Join(passed...)
}

// askSeed asks one member. decided says that another one need not be asked: the
// cluster refused.
func askSeed(ctx context.Context, seed string, t Token, wire joinWire, o Options) (answer joinAnswer, decided bool, err error) {
	c, err := o.secure(ctx, seed, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{ProtoJoin},
		InsecureSkipVerify: true, // in favour of the pin; dates do not count (law 11)
		VerifyConnection: func(cs tls.ConnectionState) error {
			return pinned(cs.PeerCertificates, t.Cluster, t.CA)
		},
	})
	if err != nil {
		return joinAnswer{}, false, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.NetConn().Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(joinRequestTimeout + joinDecisionTimeout)); err != nil {
		return joinAnswer{}, false, err
	}
	if err := writeFrame(c, magicJoin(), wire, joinRequestMax); err != nil {
		return joinAnswer{}, false, err // half a request uses nothing up
	}
	if err := readFrame(c, magicAnswer(), &answer, joinAnswerMax); err != nil {
		return joinAnswer{}, false, fmt.Errorf("%w; whether it has admitted this node is not known: join again with the same token", err)
	}
	if answer.Refusal != "" {
		return joinAnswer{}, !answer.AskAnother, &JoinRefusedError{Reason: shorten(answer.Refusal, refusalMaxLen)}
	}
	return answer, true, nil
}

// adopt fills the identity from an answer after checking that all of it fits
// the token and the key made here.
func (id *Identity) adopt(answer joinAnswer, t Token) error {
	var err error
	if id.ca.cert, err = decodeCert(answer.CA); err != nil {
		return fmt.Errorf("read CA certificate: %w", err)
	}
	if len(answer.CAKey) > 0 {
		if id.ca.key, err = decodeKey(answer.CAKey); err != nil {
			return fmt.Errorf("read CA key: %w", err)
		}
	}
	if id.cert, err = decodeCert(answer.Cert); err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if answer.Cluster != t.Cluster || fingerprint(id.ca.cert) != t.CA || !id.key.Public().(ed25519.PublicKey).Equal(id.cert.PublicKey) {
		return fmt.Errorf("%w: the answer does not fit the token", ErrStranger)
	}
	id.generation = answer.Generation
	return id.verify()
}
