// Label maps in a page: how they are unpacked, and their colours as a canvas takes them.
const labelMaps = {
  canUnpack: "DecompressionStream" in window,

  // "#rrggbb" as a pixel of 32 bits.
  abgr(hex) {
    const value = parseInt(hex.slice(1), 16);
    return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  },

  async unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  },
};
