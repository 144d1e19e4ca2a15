class Sigward < Formula
  desc "Lets AI agents act in AWS under several profiles without ever holding a key"
  homepage "https://github.com/sigward/sigward"
  url "@SOURCE_URL@"
  sha256 "@SOURCE_SHA256@"
  license "Apache-2.0"

  depends_on "cmake" => :build
  depends_on "rust" => :build

  resource "manuals" do
    url "@MANUALS_URL@"
    sha256 "@MANUALS_SHA256@"
  end

  def install
    system "cargo", "install", *std_cargo_args(path: "broker")
    system "cargo", "install", *std_cargo_args(path: "proxy")
    pkgshare.install "broker/deploy/broker.toml"

    resource("manuals").stage do
      man1.install Dir["man1/*.1"]
      bash_completion.install Dir["completions/bash/*"]
      fish_completion.install Dir["completions/fish/*"]
      zsh_completion.install Dir["completions/zsh/*"]
    end
  end

  def caveats
    <<~EOS
      MCP clients need no service: sigward-proxy starts a broker for itself.
      For one that all clients share, write #{etc}/sigward/broker.toml
      (every key is explained in #{pkgshare}/broker.toml), then
        brew services start sigward
    EOS
  end

  service do
    run [opt_bin/"sigward-broker", "serve", "--config", etc/"sigward/broker.toml"]
    keep_alive crashed: true
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/sigward-proxy --version")

    (testpath/"broker.toml").write <<~EOS
      [listen]
      unix = "#{testpath}/broker.sock"

      [[endpoint]]
      name = "aws-mcp"
      url = "https://aws-mcp.us-east-1.api.aws/mcp"

      [[profile]]
      name = "dev"
      endpoints = ["aws-mcp"]

      [[rule]]
      peer = { uid = 12345 }
      profiles = ["dev"]
    EOS
    explain = "#{bin}/sigward-broker explain --config #{testpath}/broker.toml --profile dev"
    assert_match "Permitted", shell_output("#{explain} --uid 12345")
    shell_output("#{explain} --uid 12346", 1)
  end
end
