package peer

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// The identity of a node on disk, in <data>/cluster:
//
//	CLUSTER       format, cluster ID, node name, generation, and a checksum
//	ca.pem        the CA's certificate      ca-key.pem    its key, on those that admit
//	node.pem      this node's certificate   node-key.pem  its key
//
// The CA's key lies on the voters that hold mail: any of them admits nodes when the
// others are gone, and whoever has taken one of them has mail already. A witness,
// often a small rented machine, and a node without a vote never get it: with the
// key they could name themselves any node.
const (
	clusterFolder = "cluster"
	clusterFile   = "CLUSTER"
	caFile        = "ca.pem"
	caKeyFile     = "ca-key.pem"
	nodeFile      = "node.pem"
	nodeKeyFile   = "node-key.pem"

	folderFormat = 1
)

// clusterRecord is the content of CLUSTER.
type clusterRecord struct {
	Format     int             `json:"format"`
	Cluster    string          `json:"cluster"`
	Name       slot.NodeName   `json:"name"`
	Generation slot.Generation `json:"generation"`
}

// encode returns one line of JSON and one line with its CRC-32C (law 6).
func (r clusterRecord) encode() []byte {
	line, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("encode %+v: %v", r, err)) // plain strings and numbers
	}
	return disk.Seal(string(line))
}

func decodeClusterRecord(text []byte) (clusterRecord, error) {
	var r clusterRecord
	line, err := disk.Unseal(text)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", clusterFile, err)
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("read %s: %w", clusterFile, err)
	}
	if r.Format != folderFormat {
		return r, fmt.Errorf("read %s: format %d, this program knows %d", clusterFile, r.Format, folderFormat)
	}
	return r, nil
}

// file is one file of an identity folder.
type file struct {
	name    string
	content []byte
}

// files returns the whole content of the folder.
func (id *Identity) files() ([]file, error) {
	key, err := encodeKey(id.key)
	if err != nil {
		return nil, err
	}
	record := clusterRecord{Format: folderFormat, Cluster: id.cluster, Name: id.name, Generation: id.generation}
	list := []file{
		{caFile, encodeCert(id.ca.cert)},
		{nodeFile, encodeCert(id.cert)}, {nodeKeyFile, key},
		{clusterFile, record.encode()},
	}
	if id.Admits() {
		caKey, err := encodeKey(id.ca.key)
		if err != nil {
			return nil, err
		}
		list = append(list, file{caKeyFile, caKey})
	}
	return list, nil
}

// readFolder reads an identity and checks that its parts belong together.
func readFolder(folder string) (*Identity, error) {
	content := make(map[string][]byte)
	for _, name := range []string{clusterFile, caFile, caKeyFile, nodeFile, nodeKeyFile} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if name == caKeyFile && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		content[name] = text
	}
	record, err := decodeClusterRecord(content[clusterFile])
	if err != nil {
		return nil, err
	}
	id := &Identity{folder: folder, cluster: record.Cluster, name: record.Name, generation: record.Generation}
	if id.ca.cert, err = decodeCert(content[caFile]); err != nil {
		return nil, fmt.Errorf("read %s: %w", caFile, err)
	}
	if text, holds := content[caKeyFile]; holds {
		if id.ca.key, err = decodeKey(text); err != nil {
			return nil, fmt.Errorf("read %s: %w", caKeyFile, err)
		}
	}
	if id.cert, err = decodeCert(content[nodeFile]); err != nil {
		return nil, fmt.Errorf("read %s: %w", nodeFile, err)
	}
	if id.key, err = decodeKey(content[nodeKeyFile]); err != nil {
		return nil, fmt.Errorf("read %s: %w", nodeKeyFile, err)
	}
	return id, id.verify()
}

// verify checks that keys, certificates and names of an identity fit.
func (id *Identity) verify() error {
	if err := checkAuthority(id.ca.cert); err != nil {
		return err
	}
	if id.Admits() && !id.ca.key.Public().(ed25519.PublicKey).Equal(id.ca.cert.PublicKey) {
		return errors.New("the CA key does not belong to the CA certificate")
	}
	name, err := checkMember(id.cert, id.ca.cert, id.cluster)
	if err != nil {
		return err
	}
	if name != id.name {
		return fmt.Errorf("the certificate is for node %q, want %q", name, id.name)
	}
	if !id.key.Public().(ed25519.PublicKey).Equal(id.cert.PublicKey) {
		return errors.New("the node key does not belong to the node certificate")
	}
	if id.generation == 0 {
		return errors.New("generation 0 does not exist")
	}
	return nil
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func decodeCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no private key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	own, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is a %T, want Ed25519", key)
	}
	return own, nil
}

// createFolder makes a folder with all its files or not at all: they are
// written and synced beside it, and a rename of the folder is the last step.
func createFolder(folder string, files []file) error {
	if _, err := os.Lstat(folder); err == nil {
		return fmt.Errorf("%w: %q exists", ErrHasCluster, folder)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(folder)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	draft := folder + ".new" // what a crash leaves of it is never read
	if err := os.RemoveAll(draft); err != nil {
		return err
	}
	if err := os.Mkdir(draft, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if err := disk.ReplaceFile(filepath.Join(draft, f.name), f.content); err != nil {
			return err
		}
	}
	if err := os.Rename(draft, folder); err != nil {
		return err
	}
	return disk.SyncDir(vfs.Default, parent)
}
