package image

// A Document is what a manifest or an index says: what it is, and what it points to.
// It is read from the document's exact bytes by [ParseDocument], which refuses what is neither
// or both.
type Document struct {
	MediaType    string            `json:"mediaType"` // as the document says, or what its shape means
	Index        bool              `json:"index,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Config       *Descriptor       `json:"config,omitempty"` // of a manifest
	Layers       []Descriptor      `json:"layers,omitempty"` // of a manifest, in order, lowest first
	Manifests    []Descriptor      `json:"manifests,omitempty"`
	Subject      *Descriptor       `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	// Platform is what the config of a manifest says. ParseDocument cannot know it; whoever
	// reads the config fills it in.
	Platform *Platform `json:"platform,omitempty"`
}
