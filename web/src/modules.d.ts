declare module 'tweetnacl-sealedbox-js' {
  const box: { seal(message: Uint8Array, publicKey: Uint8Array): Uint8Array }
  export default box
}
